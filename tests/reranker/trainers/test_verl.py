"""`compute_score` as verl calls it; the reward manager in verl's own hands, if verl is there."""

import asyncio
import math
from pathlib import Path
from typing import Any

import grpc
import pytest

from adjudge_reranker import RequestRefused, RewardClient
from adjudge_reranker.trainers.verl import compute_score, compute_score_async
from adjudge_server.serve import Server
from tests.conftest import SEVEN
from tests.reranker import scripted
from tests.reranker.scripted import ScriptedService

EXAMPLE = Path(__file__).parents[3] / "examples" / "verl_reward.py"
QUESTION = "What this image presents?"
ANSWER = "This is a handwritten number seven."
# verl's own imports: ray deprecates what it imports itself.
pytestmark = pytest.mark.filterwarnings("ignore:Ray state API:DeprecationWarning")
ROW = {"question": QUESTION, "images": [str(SEVEN)]}


@pytest.fixture
def embedded(embedded_server: Server) -> str:
    return f"127.0.0.1:{embedded_server.port}"


@pytest.fixture
def expected(embedded: str) -> float:
    with RewardClient(embedded) as client:
        (reward,) = client.score([SEVEN, QUESTION], [ANSWER]).rewards
    assert reward is not None
    return reward


def test_the_score_is_the_clients_reward_with_its_picture(embedded: str, expected: float) -> None:
    own = compute_score("digits", ANSWER, "7", ROW, address=embedded)
    assert own["score"] == pytest.approx(expected, abs=1e-3)
    coroutine = compute_score_async("digits", ANSWER, "7", ROW, address=embedded)
    assert asyncio.run(coroutine) == pytest.approx(own, abs=1e-3)


def test_a_data_set_without_the_prompt_is_told_what_to_do(embedded: str) -> None:
    with pytest.raises(KeyError, match="prompt_key"):
        compute_score("digits", ANSWER, "7", {}, address=embedded)


def test_the_ground_truth_is_shown_to_the_critic_only_if_asked_for(script: ScriptedService) -> None:
    compute_score("digits", "So.", "7", {"question": "Why?"}, address=script.address)
    compute_score(
        "digits",
        "So.",
        "7",
        {"question": "Why?"},
        address=script.address,
        judge_with_ground_truth=True,
    )
    assert [request.reference for request in script.requests] == ["", "7"]


def test_a_failure_is_raised_or_nan_and_has_the_same_keys(script: ScriptedService) -> None:
    columns: dict[str, Any] = {"extra_info": {"question": "Why?"}, "address": script.address}
    good = compute_score("digits", "So.", "7", **columns)
    script.plan(*[scripted.fail(grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG")] * 2)
    with pytest.raises(RequestRefused):
        compute_score("digits", "So.", "7", **columns)
    bad = compute_score("digits", "So.", "7", on_failure="nan", **columns)
    assert math.isnan(bad["score"])
    assert bad.keys() == good.keys()
    with pytest.raises(ValueError, match="None"):
        compute_score("digits", "So.", "7", on_failure="none", **columns)


class Letters:
    """A tokenizer whose tokens are code points."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        return "".join(chr(int(one)) for one in ids)


def config(**reward: Any) -> Any:
    omegaconf = pytest.importorskip("omegaconf")
    manager = {"source": "register", "name": "naive", "module": {"path": None}}
    return omegaconf.OmegaConf.create({"reward": {"reward_manager": manager, **reward}})


def data(non_tensors: dict[str, Any]) -> Any:
    """A batch of one response, padded on both sides as verl pads."""
    protocol = pytest.importorskip("verl.protocol")
    import numpy
    import torch

    response = [ord(letter) for letter in ANSWER]
    tensors = {
        "prompts": torch.tensor([[0, 0, 63]]),
        "responses": torch.tensor([[*response, 0, 0]]),
        "attention_mask": torch.tensor([[0, 0, 1] + [1] * len(response) + [0, 0]]),
    }
    boxed = {}
    for name, value in non_tensors.items():
        boxed[name] = numpy.empty(1, dtype=object)
        boxed[name][0] = value
    return protocol.DataProto.from_dict(tensors=tensors, non_tensors=boxed)


def run_single(settings: Any, non_tensors: dict[str, Any]) -> dict[str, Any]:
    reward = pytest.importorskip("verl.trainer.ppo.reward")

    async def run() -> dict[str, Any]:
        manager = reward.load_reward_manager(settings, Letters())
        return await manager.run_single(data(non_tensors))

    return asyncio.run(run())


PLAIN = {"data_source": "digits", "reward_model": {"ground_truth": "7"}, "extra_info": dict(ROW)}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("pkg://adjudge_reranker.trainers.verl", "compute_score"),
        ("pkg://adjudge_reranker.trainers.verl", "compute_score_async"),
        (str(EXAMPLE), "compute_score"),
    ],
)
def test_verl_finds_and_calls_the_function(
    path: str, name: str, embedded: str, expected: float
) -> None:
    function = {"path": path, "name": name, "reward_kwargs": {"address": embedded}}
    result = run_single(config(custom_reward_function=function), dict(PLAIN))
    assert result["reward_score"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("source", ["importlib", "register"])
def test_verl_finds_the_manager_which_shows_the_critic_the_picture(
    source: str, embedded: str, expected: float
) -> None:
    settings = config(reward_kwargs={"adjudge": {"address": embedded, "on_failure": "wait"}})
    pytest.importorskip("verl")
    import adjudge_reranker.trainers.verl_manager  # noqa: F401, registers it

    settings.reward.reward_manager = {
        "source": source,
        "name": "AdjudgeRewardManager" if source == "importlib" else "adjudge",
        "module": {"path": "pkg://adjudge_reranker.trainers.verl_manager"},
    }
    content = [{"type": "image", "image": str(SEVEN)}, {"type": "text", "text": QUESTION}]
    prompt = [{"role": "user", "content": content}]
    result = run_single(settings, {**PLAIN, "raw_prompt": prompt})
    assert result["reward_score"] == pytest.approx(expected, abs=1e-3)
    assert result["reward_extra_info"]["score"] == result["reward_score"]
