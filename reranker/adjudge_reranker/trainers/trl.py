"""Rewards for TRL's trainers (GRPO, RLOO, AsyncGRPO, OnlineDPO), written against TRL 1.16.

GRPOTrainer(model, reward_funcs=AdjudgeReward("127.0.0.1:50051"), ...)

Loads no TRL: its trainers take any callable. What they make of a completion without a reward, that
is, None or NaN, which are the same to them:

* `GRPOTrainer`, `RLOOTrainer` and AsyncGRPO leave it out of the group's mean and spread, and its
  advantage is 0, if this is the only reward function or all of them returned None for it. With
  several reward functions the others are summed, as if this reward had been 0: then prefer `wait`
  or `raise`.
* `OnlineDPOTrainer`, and the others before TRL handed them `log_metric`, would take it for 0.0. The
  callables see that and raise instead.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from adjudge_reranker.aio import AsyncRewardClient
from adjudge_reranker.client import RewardClient
from adjudge_reranker.trainers.failures import FAILURE_KINDS, OnFailure, explain
from adjudge_reranker.trainers.judging import (
    Judgement,
    Measure,
    Outcome,
    Settings,
    first_failure,
    judge,
    judge_async,
)
from adjudge_reranker.trainers.pictures import PictureReader
from adjudge_reranker.trainers.samples import ChatLike, Sample, grouped, read_sample
from adjudge_reranker.types import Failure, Readout


class _RewardFunction:
    """What the four have in common: everything but the call itself."""

    _measure = Measure.REWARD
    _default_name = "adjudge_reward"

    def __init__(
        self,
        *,
        template: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        readout: Readout = Readout.DIRECT,
        image_column: str | None = None,
        reference_column: str | None = "reference",
        strip_thinking: bool = False,
        on_failure: OnFailure | str = OnFailure.NONE,
        max_wait_seconds: float | None = 600.0,
        name: str | None = None,
    ) -> None:
        """`template`, `rubric`, `model` and `readout` are those of `RewardClient.score`.

        `image_column` is the data set's column of pictures if it is neither `images` nor `image`,
        which TRL would show to the policy too; `reference_column` that of reference answers, if
        the data set has it. `strip_thinking` judges what follows `</think>`, and an empty answer
        if the thinking never ended. Under `wait`, what waiting cannot mend becomes None. `name` is
        what TRL logs the reward under; functions that are used together need different ones.

        Raises ValueError for an unknown policy or a wait that is not positive.
        """
        self._settings = Settings(
            self._measure,
            template=template,
            rubric=rubric,
            model=model,
            readout=readout,
            strip_thinking=strip_thinking,
            on_failure=OnFailure(on_failure),
            max_wait_seconds=max_wait_seconds,
        )
        self._image_columns = (image_column,) if image_column else ("images", "image")
        self._reference_column = reference_column
        self.__name__ = name or self._default_name

    def _samples(
        self,
        prompts: Sequence[ChatLike],
        completions: Sequence[ChatLike],
        columns: dict[str, Any],
    ) -> list[Sample | Failure]:
        size = len(prompts)
        found = [columns[name] for name in self._image_columns if columns.get(name)]
        pictures = found[0] if found else [None] * size
        references = columns.get(self._reference_column or "") or [None] * size
        reader = PictureReader()
        rows = zip(prompts, completions, pictures, references, strict=True)
        return [
            read_sample(
                prompt,
                completion,
                pictures=own,
                reference=reference,
                strip_thinking=self._settings.strip_thinking,
                reader=reader,
            )
            for prompt, completion, own, reference in rows
        ]

    def _rewards(
        self,
        samples: Sequence[Sample | Failure],
        outcomes: Sequence[Outcome],
        columns: dict[str, Any],
    ) -> list[float | None]:
        log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
        if log_metric is not None:
            self._log(samples, outcomes, log_metric)
        if log_extra is not None:
            # In every call: TRL's table of completions needs columns of one length.
            log_extra(f"{self.__name__}/failure", [_why(outcome) for outcome in outcomes])
        error = first_failure(outcomes)
        zeroed = "trainer_state" in columns and log_metric is None
        if error is not None and (zeroed or self._settings.on_failure is OnFailure.RAISE):
            if zeroed:
                error.add_note("this trainer would take a missing reward for 0.0")
            raise error
        if zeroed and None in outcomes:
            raise ValueError("this trainer would take a preference in a group of one for 0.0")
        missing = float("nan") if self._settings.on_failure is OnFailure.NAN else None
        return [one.value if isinstance(one, Judgement) else missing for one in outcomes]

    def _log(
        self,
        samples: Sequence[Sample | Failure],
        outcomes: Sequence[Outcome],
        log_metric: Callable[[str, float], None],
    ) -> None:
        """Under the same names in every process and call, but for those that have no value."""
        judged = [outcome for outcome in outcomes if isinstance(outcome, Judgement)]
        masses = [one.valid_mass for one in judged if one.valid_mass is not None]
        failures = [outcome.error for outcome in outcomes if isinstance(outcome, Failure)]
        spreads = _spreads(samples, outcomes)
        name = self.__name__
        if judged:
            log_metric(f"{name}/mean", statistics.fmean(one.value for one in judged))
        if spreads:
            log_metric(f"{name}/spread_in_group", statistics.fmean(spreads))
        if masses:
            log_metric(f"{name}/valid_mass", statistics.fmean(masses))
        for kind, short in FAILURE_KINDS.items():
            share = sum(isinstance(error, kind) for error in failures) / len(outcomes)
            log_metric(f"{name}/failed/{short}", share)


class AdjudgeReward(_RewardFunction):
    """The reward of each completion, for `reward_funcs`. Picklable.

    Prompts and completions may be texts or chat messages. Pictures are taken from the messages, or
    from the columns `images` or `image`: PIL images, bytes, paths, arrays, data URLs, or a list of
    them for each row. Completions of equal prompts and pictures go to the server together, which
    then computes their prompt once; several such groups are under way at a time.

    Logs, through the `log_metric` and `log_extra` that TRL hands over, under its name: the mean
    reward, the mean standard deviation within a group (what GRPO learns from; of groups with at
    least two rewards), the valid mass, the share of failures by kind, and each one's reason.
    """

    def __init__(self, client: RewardClient | str = "127.0.0.1:50051", **options: Any) -> None:
        """`client` is an address, or a client with settings of its own; options as above."""
        super().__init__(**options)
        self._client = RewardClient(client) if isinstance(client, str) else client

    def __call__(
        self,
        prompts: Sequence[ChatLike],
        completions: Sequence[ChatLike],
        **columns: Any,
    ) -> list[float | None]:
        """One reward a completion, in order; `on_failure` says what stands where there is none.

        Raises RewardError if the policy says so or the settings are wrong, TypeError for what is
        no prompt, completion or picture, and ValueError if columns differ in length.
        """
        samples = self._samples(prompts, completions, columns)
        return self._rewards(samples, judge(self._client, samples, self._settings), columns)


class AsyncAdjudgeReward(_RewardFunction):
    """The same as a coroutine, which TRL runs at the same time as other asynchronous rewards.

    TRL 1.16 sees that the instance is asynchronous. Before, it asked `inspect.iscoroutinefunction`,
    which does not: there pass the instance's `__call__`.
    """

    def __init__(self, client: AsyncRewardClient | str = "127.0.0.1:50051", **options: Any) -> None:
        """`client` is an address, or a client with settings of its own; options as above."""
        super().__init__(**options)
        self._client = AsyncRewardClient(client) if isinstance(client, str) else client

    async def __call__(
        self,
        prompts: Sequence[ChatLike],
        completions: Sequence[ChatLike],
        **columns: Any,
    ) -> list[float | None]:
        """As `AdjudgeReward`."""
        samples = self._samples(prompts, completions, columns)
        outcomes = await judge_async(self._client, samples, self._settings)
        return self._rewards(samples, outcomes, columns)


class AdjudgeGroupPreference(AdjudgeReward):
    """Each completion's mean preference against the others of its group, in [0, 1]. Picklable.

    N completions of a prompt cost N(N-1)/2 comparisons, in both orders. Finer than pointwise
    rewards where completions are nearly equal, but relative: the mean over a group is always 1/2,
    so it cannot show progress. None for a completion alone in its group. `template`, if given, is a
    pairwise one.
    """

    _measure = Measure.PREFERENCE
    _default_name = "adjudge_group_preference"


class AsyncAdjudgeGroupPreference(AsyncAdjudgeReward):
    """The same as a coroutine."""

    _measure = Measure.PREFERENCE
    _default_name = "adjudge_group_preference"


def _why(outcome: Outcome) -> str | None:
    return explain(outcome.error) if isinstance(outcome, Failure) else None


def _spreads(samples: Sequence[Sample | Failure], outcomes: Sequence[Outcome]) -> list[float]:
    """The standard deviation within each group that has at least two rewards."""
    spreads = []
    for group in grouped(samples):
        own = [outcomes[index] for index in group.indices]
        values = [outcome.value for outcome in own if isinstance(outcome, Judgement)]
        if len(values) > 1:
            spreads.append(statistics.pstdev(values))
    return spreads
