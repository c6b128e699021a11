"""The critic that ships: the contract, and the seven that everybody meets first."""

from pathlib import Path

import PIL.Image
import pytest

from adjudge_reranker import CritiqueVerdict, Image, OrderPolicy, Reward, RewardClient, best_of_n
from adjudge_server.config import Config
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.loading import load_critic
from adjudge_server.serve import Server
from tests.conftest import CROSS, SEVEN
from tests.contract import CriticContract

PROMPT = (Image.open(SEVEN), "What this image presents?")
RIGHT = "This is a handwritten number seven."
ANSWERS = (CROSS, RIGHT, "This is a handwritten number four.", "It could be a seven or a one.", "")


@pytest.fixture(scope="module")
def critic() -> LlavaOnevisionCritic:
    loaded = load_critic(Config())
    assert isinstance(loaded, LlavaOnevisionCritic)
    return loaded


class TestEmbeddedCritic(CriticContract):
    pass


@pytest.fixture(scope="module")
def client(embedded_server: Server) -> RewardClient:
    return RewardClient(f"127.0.0.1:{embedded_server.port}")


def test_the_seven_wins_and_the_cross_loses(client: RewardClient) -> None:
    ranking = best_of_n(client, PROMPT, ANSWERS, comparer=client)
    rewards = {entry.candidate: entry.reward for entry in ranking.entries}
    assert ranking.best.candidate == RIGHT
    assert rewards[RIGHT] > 85
    assert rewards[CROSS] < 40
    assert rewards[""] < 20


def test_each_order_of_the_pair_favours_the_seven(client: RewardClient) -> None:
    pairs = [(0, 1), (1, 0)]
    result = client.compare(PROMPT, [RIGHT, CROSS], pairs, order_policy=OrderPolicy.AS_GIVEN)
    seven_first, cross_first = result.margins
    assert seven_first > 0 > cross_first


def test_swapping_a_pair_negates_its_margin_exactly(client: RewardClient) -> None:
    forth, back = client.compare(PROMPT, ANSWERS, [(0, 1), (1, 0)]).margins
    assert forth == -back


def test_one_at_a_time_equals_together(client: RewardClient) -> None:
    together = client.score(PROMPT, ANSWERS).rewards
    alone = [client.score(PROMPT, [answer]).rewards[0] for answer in ANSWERS]
    assert together == pytest.approx(alone, abs=1e-2)
    backwards = client.score(PROMPT, ANSWERS[::-1]).rewards
    assert backwards[::-1] == pytest.approx(together, abs=1e-2)


def test_the_picture_decides(client: RewardClient, tmp_path: Path) -> None:
    """The same words about another picture are worth less: it looks."""
    path = tmp_path / "blank.png"
    PIL.Image.new("L", (28, 28)).save(path)
    blank = client.score([path, PROMPT[1]], [RIGHT]).rewards[0]
    seven = client.score(PROMPT, [RIGHT]).rewards[0]
    assert seven > blank + 20


def test_a_critique_gives_its_verdict_first_and_the_direct_number(client: RewardClient) -> None:
    events = list(client.critique(PROMPT, [RIGHT], max_critique_tokens=48))
    (verdict,) = [event for event in events if isinstance(event, CritiqueVerdict)]
    assert isinstance(verdict.outcome, Reward)
    direct = client.score(PROMPT, [RIGHT]).rewards[0]
    assert verdict.outcome.reward == pytest.approx(direct, abs=1e-2)
