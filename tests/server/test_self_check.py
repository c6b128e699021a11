"""What start-up measures, of critics that are noisy and remember."""

from collections.abc import Sequence

import pytest

from adjudge_server.config import Config
from adjudge_server.critic import Reading
from adjudge_server.critics.fake import FakeCritic, FakePrepared
from adjudge_server.loading import load_critic
from adjudge_server.self_check import check, check_room, worst_batch
from adjudge_server.verification import questions
from adjudge_server.verification.measure import company

NOISE = 1e-3


class Remembering(FakeCritic):
    """Its numbers depend on how large the batch is in which they are first computed."""

    def __init__(self) -> None:
        super().__init__(name="fake", max_input_tokens=4096)
        self._known: dict[str, Reading] = {}

    def forward(self, batch: Sequence[FakePrepared]) -> list[Reading]:
        for item, reading in zip(batch, super().forward(batch), strict=True):
            answers = reading.answer_log_probs + NOISE * (len(batch) > 1)
            self._known.setdefault(
                item.query.text, Reading(reading.opening_mass, answers, reading.computed_tokens)
            )
        return [self._known[item.query.text] for item in batch]

    def forget(self) -> None:
        self._known = {}


def test_what_is_remembered_does_not_hide_the_noise() -> None:
    measured = check(Remembering())
    assert measured.batched_difference == pytest.approx(NOISE)
    assert measured.noise_floor > NOISE


def test_nor_does_it_in_the_acceptance_run() -> None:
    critic = Remembering()
    texts = ["A seven.", "A dog.", "7"]
    template = critic.card.templates[0]
    queries = questions.score_queries(critic.card, template, texts)
    assert company(critic, queries) == pytest.approx(NOISE)


@pytest.mark.parametrize("max_batch_tokens", [400, 1500, 6000])
@pytest.mark.parametrize("kind", ["fake", "auto"])
def test_the_worst_batch_fills_what_a_batch_may_have(kind: str, max_batch_tokens: int) -> None:
    critic = load_critic(Config(critic=kind))
    computed = sum(r.computed_tokens for r in critic.forward(worst_batch(critic, max_batch_tokens)))
    assert 0.8 * max_batch_tokens <= computed <= max_batch_tokens


class Small(FakeCritic):
    """Its device has room for few tokens."""

    def forward(self, batch: Sequence[FakePrepared]) -> list[Reading]:
        if sum(item.own_tokens for item in batch) > 1000:
            raise MemoryError("out of memory")
        return super().forward(batch)


def test_a_batch_that_does_not_fit_names_the_flag_at_the_start() -> None:
    critic = Small(name="fake", max_input_tokens=4096)
    check_room(critic, 900)
    with pytest.raises(ValueError, match="--max-batch-tokens 8000"):
        check_room(critic, 8000)
