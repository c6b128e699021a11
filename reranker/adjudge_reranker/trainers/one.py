"""One completion at a time, for trainers that ask so, and that take nothing but a float.

Those trainers have no place for None, so it is no policy here: what waiting cannot mend is raised.
"""

from collections.abc import Sequence
from functools import lru_cache

from adjudge_reranker.aio import AsyncRewardClient
from adjudge_reranker.client import RewardClient
from adjudge_reranker.trainers.failures import OnFailure
from adjudge_reranker.trainers.judging import (
    Judgement,
    Outcome,
    Settings,
    first_failure,
    judge,
    judge_async,
)
from adjudge_reranker.trainers.samples import Sample
from adjudge_reranker.types import Failure

# One client an address in each process: a trainer calls once for each completion.
client_of = lru_cache(maxsize=None)(RewardClient)
async_client_of = lru_cache(maxsize=None)(AsyncRewardClient)


def float_settings(
    *,
    template: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    strip_thinking: bool = False,
    on_failure: OnFailure | str = OnFailure.RAISE,
    max_wait_seconds: float | None = 600.0,
) -> Settings:
    """Settings for a trainer that needs a float for every completion.

    Raises ValueError for `none`, an unknown policy, or a wait that is not positive.
    """
    if OnFailure(on_failure) is OnFailure.NONE:
        raise ValueError("this trainer has no place for None: choose raise, wait or nan")
    return Settings(
        template=template,
        rubric=rubric,
        model=model,
        strip_thinking=strip_thinking,
        on_failure=OnFailure(on_failure),
        max_wait_seconds=max_wait_seconds,
    )


def judge_one(client: RewardClient, sample: Sample | Failure, settings: Settings) -> Judgement:
    """The judgement; of value NaN if it failed under `nan`. Raises RewardError otherwise."""
    return _number(judge(client, [sample], settings), settings)


async def judge_one_async(
    client: AsyncRewardClient, sample: Sample | Failure, settings: Settings
) -> Judgement:
    """The same, without blocking the event loop."""
    return _number(await judge_async(client, [sample], settings), settings)


def _number(outcomes: Sequence[Outcome], settings: Settings) -> Judgement:
    (outcome,) = outcomes
    if isinstance(outcome, Judgement):
        return outcome
    error = first_failure(outcomes)
    if error is not None and settings.on_failure is not OnFailure.NAN:
        raise error
    return Judgement(float("nan"))
