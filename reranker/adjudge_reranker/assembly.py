"""The answers to the parts of a request, put together in order, as the work of one weights epoch.

Pure: says which parts to ask and is told the answers, by whichever client asks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic

import grpc

from adjudge_reranker.encode import Draft, RequestT
from adjudge_reranker.errors import ErrorReason, RequestRefused, RewardError, ServerFault
from adjudge_reranker.parts import Part, ResultT
from adjudge_reranker.types import CompareResult, Failure, Provenance, ScoreResult

_MAX_ROUNDS: Final = 4
"""Weights that move more often than this during one call move too fast for it."""


@dataclass(frozen=True, slots=True)
class Job(Generic[RequestT]):
    """A part to ask now."""

    index: int
    draft: Draft[RequestT]
    num_items: int


class Assembly(Generic[RequestT, ResultT]):
    """Ask all of `jobs()` and `put` what comes back, until there are none; then get the `result`.

    Where weights moved between two parts, those of the older epoch are asked again.
    """

    def __init__(self, parts: Sequence[Part[RequestT]]) -> None:
        self._parts: Sequence[Part[RequestT]] = parts
        self._answers: dict[int, ResultT] = {}
        self._errors: dict[int, RewardError] = {}
        """Why the last try of a part failed. A part may have both, if that was not its first."""
        self._num_rounds = 0

    def jobs(self) -> list[Job[RequestT]]:
        """What to ask next; empty when there is nothing left that could help."""
        self._num_rounds += 1
        if self._num_rounds == 1:
            return [Job(i, part.draft, part.num_items) for i, part in enumerate(self._parts)]
        caller_chose = self._parts[0].draft.options.HasField("expected_epoch")
        if caller_chose or self._num_rounds > _MAX_ROUNDS:
            return []
        epochs = [answer.provenance.weights_epoch for answer in self._answers.values()]
        newest = max(epochs + [_told_epoch(error) for error in self._errors.values()])
        return [
            Job(index, part.in_epoch(newest), part.num_items)
            for index, part in enumerate(self._parts)
            if self._is_stale(index, newest)
        ]

    def put(self, index: int, answer: ResultT | RewardError) -> None:
        """The answer to the job of that index."""
        if isinstance(answer, RewardError):
            self._errors[index] = answer
        else:
            self._errors.pop(index, None)
            self._answers[index] = answer

    @property
    def has_outgrown_limits(self) -> bool:
        """Whether a part was refused for its number of items: the server's limits have changed."""
        reasons = (error.reason for error in self._errors.values())
        return ErrorReason.LIMIT_EXCEEDED in reasons

    def result(self) -> ResultT:
        """One outcome an item, in the order of the whole request; of the newest weights epoch that
        answered.

        Raises the first part's error if no part was answered, and ServerFault if two parts were
        answered by different models, as endpoints that are not alike do.
        """
        if not self._answers:
            raise self._errors[0]
        newest = max(answer.provenance.weights_epoch for answer in self._answers.values())
        current = {
            index: answer
            for index, answer in sorted(self._answers.items())
            if answer.provenance.weights_epoch == newest
        }
        outcomes: list[Any] = []
        for index, part in enumerate(self._parts):
            if index in current:
                outcomes += _placed(part, current[index].outcomes)
            else:
                error = self._errors.get(index) or _out_of_date(self._answers[index], newest)
                outcomes += _placed(part, [Failure(error)] * part.num_items)
        provenance = _together([answer.provenance for answer in current.values()])
        some = next(iter(current.values()))
        return replace(some, outcomes=tuple(outcomes), provenance=provenance)

    def _is_stale(self, index: int, newest: int) -> bool:
        """Whether asking again for the newest epoch can help.

        A server that refused because it is older than that, such as one that has restarted, will
        not get there; one that refused because it is newer has set the newest epoch itself.
        """
        if index in self._errors:
            error = self._errors[index]
            return _told_epoch(error) > _told_epoch(error, "expected")
        return self._answers[index].provenance.weights_epoch < newest


def _told_epoch(error: RewardError, which: str = "actual") -> int:
    """The weights epoch of the server that refused another one, or with `which` "expected" the one
    that it refused; -1 for other errors."""
    epoch = error.metadata.get(which, "")
    told = error.reason == ErrorReason.WRONG_EPOCH and epoch.isascii() and epoch.isdigit()
    return int(epoch) if told else -1


def _placed(part: Part[RequestT], outcomes: Iterable[Any]) -> Iterable[Any]:
    return [
        Failure(part.placed(outcome.error)) if isinstance(outcome, Failure) else outcome
        for outcome in outcomes
    ]


def _out_of_date(answer: ScoreResult | CompareResult, newest: int) -> RequestRefused:
    return RequestRefused(
        "the weights moved while parts of this request were judged, and not for this part in time",
        code=grpc.StatusCode.FAILED_PRECONDITION,
        reason=ErrorReason.WRONG_EPOCH,
        metadata={"expected": str(newest), "actual": str(answer.provenance.weights_epoch)},
    )


def _together(parts: Sequence[Provenance]) -> Provenance:
    """Tokens add up; of durations the longest counts, because parts are asked at the same time.

    Raises ServerFault if the parts are not the work of one model with one template.
    """
    first = parts[0]
    for other in parts[1:]:
        for field in ("model_fingerprint", "template_hash"):
            mine, theirs = getattr(first, field), getattr(other, field)
            if mine != theirs:
                raise ServerFault(
                    f"parts of one request were answered by different models, by their {field}:"
                    " endpoints must serve the same model",
                    code=grpc.StatusCode.FAILED_PRECONDITION,
                    metadata={"field": field, "expected": mine, "actual": theirs},
                )
    return replace(
        first,
        total_seconds=_longest(part.total_seconds for part in parts),
        queue_seconds=_longest(part.queue_seconds for part in parts),
        inference_seconds=_longest(part.inference_seconds for part in parts),
        input_tokens=sum(part.input_tokens for part in parts),
        image_tokens=sum(part.image_tokens for part in parts),
        computed_tokens=sum(part.computed_tokens for part in parts),
        cached_tokens=sum(part.cached_tokens for part in parts),
        cached_images=sum(part.cached_images for part in parts),
    )


def _longest(seconds: Iterable[float | None]) -> float | None:
    return max((value for value in seconds if value is not None), default=None)
