"""The choice while it is made: what was begun, generated and judged, and whether that is enough.

Makes no calls and knows no clock, so that it serves callers that block and callers that do not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

import grpc

from adjudge_reranker.content import Candidate, to_candidates
from adjudge_reranker.errors import (
    ErrorReason,
    NothingJudged,
    RequestRefused,
    RewardError,
    ServerFault,
)
from adjudge_reranker.generation.errors import GenerationError, PolicyFault
from adjudge_reranker.generation.samples import C, Finish, Sample
from adjudge_reranker.generation.selection import Attempt, Selection, StopReason, Winner
from adjudge_reranker.generation.stopping import StoppingRule
from adjudge_reranker.types import Failure, Provenance, ScoreOutcome, ScoreResult

_MAX_TURNS = 4
"""Weights that move more often than this while one candidate waits move too fast for it."""


@dataclass(slots=True)
class _Entry(Generic[C]):
    """A candidate that was begun."""

    sample: Sample[C] | None = None
    outcome: ScoreOutcome | None = None
    duplicate_of: int | None = None
    is_eligible: bool = False
    num_turns: int = 0
    """How often it was judged."""


class Selecting(Generic[C]):
    """Counts as an `Order`. Ask it what to score after each sample, and tell it what came of it."""

    def __init__(
        self,
        num_candidates: int,
        *,
        stopping: StoppingRule | None,
        good_enough: float | None,
        allow_truncated: bool,
    ) -> None:
        if num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, not {num_candidates}")
        if good_enough is not None and not math.isfinite(good_enough):
            raise ValueError(f"good_enough must be finite: {good_enough}")
        self._num_candidates = num_candidates
        self._stopping = stopping
        self._good_enough = good_enough
        self._eligible = {Finish.COMPLETE, Finish.UNKNOWN}
        if allow_truncated:
            self._eligible.add(Finish.LENGTH)
        self._entries: list[_Entry[C]] = []
        self._first: dict[Candidate, int] = {}
        self._provenances: list[Provenance] = []
        self._considered: tuple[int, list[float]] | None = None
        self._stop: StopReason | None = None
        self._risk: float | None = None

    @property
    def num_wanted(self) -> int:
        return 0 if self.is_over else self._num_candidates - len(self._entries)

    @property
    def is_over(self) -> bool:
        return self._stop is not None

    def begin(self, count: int) -> range:
        if not 0 <= count <= self.num_wanted:
            raise ValueError(f"{count} candidates begun where {self.num_wanted} are wanted")
        start = len(self._entries)
        self._entries += [_Entry() for _ in range(count)]
        return range(start, start + count)

    def add(self, samples: Iterable[Sample[C]]) -> list[int]:
        """Takes what was generated; returns the indices of those to score."""
        fresh = [sample.index for sample in samples if self._is_news(sample)]
        self._consider()
        return fresh

    def candidate(self, index: int) -> C:
        """The one that has to be scored."""
        sample = self._entries[index].sample
        assert sample is not None and not isinstance(sample.content, GenerationError)
        return sample.content

    def take(self, indices: Sequence[int], result: ScoreResult | RewardError) -> list[int]:
        """What the scorer says about those indices; returns the indices of those to score again,
        because the critic's weights have moved and rewards of two epochs do not compare.

        Raises ServerFault if it is another model that says it, and ValueError if there are not as
        many outcomes as indices.
        """
        for index in indices:
            self._entries[index].num_turns += 1
        if isinstance(result, RewardError):
            self._settle(indices, [Failure(result)] * len(indices))
            again = []
        else:
            if len(result.outcomes) != len(indices):
                raise ValueError(f"{len(result.outcomes)} outcomes for {len(indices)} candidates")
            again = self._take_result(indices, result)
        self._consider()
        return again

    def end(self) -> None:
        """The policy gives no more."""
        if self._stop is None:
            complete = len(self._entries) == self._num_candidates
            self._stop = StopReason.ALL_GENERATED if complete else StopReason.POLICY_ENDED

    def selection(self) -> Selection[C]:
        """Raises NothingJudged if no candidate has a reward, from the first error of generating if
        there is one."""
        assert self._stop is not None
        attempts = tuple(self._attempt(index) for index in range(len(self._entries)))
        best: Winner[C] | None = None
        for attempt in attempts:
            if attempt.candidate is None or attempt.reward is None:
                continue
            if best is None or attempt.reward > best.reward:
                best = Winner(attempt.index, attempt.candidate, attempt.reward)
        if best is None:
            raise _nothing_judged(attempts) from _first_error(attempts)
        return Selection(
            best,
            attempts,
            self._stop,
            self._risk,
            self._num_candidates,
            tuple(self._provenances),
        )

    def _is_news(self, sample: Sample[C]) -> bool:
        """Whether there is a candidate in it that has to be scored."""
        entry = self._entries[sample.index]
        if entry.sample is not None:
            raise ValueError(f"candidate {sample.index} was generated twice")
        entry.sample = sample
        if isinstance(sample.content, GenerationError) or sample.finish not in self._eligible:
            return False
        try:
            (key,) = to_candidates((sample.content,))
        except ValueError as error:  # such as a lone surrogate, which JSON can hold
            entry.sample = Sample(sample.index, PolicyFault(str(error)), sample.finish)
            return False
        entry.is_eligible = True
        first = self._first.setdefault(key, sample.index)
        if first == sample.index:
            return True
        entry.duplicate_of = first
        return False

    def _take_result(self, indices: Sequence[int], result: ScoreResult) -> list[int]:
        provenance = result.provenance
        if self._provenances:
            known = self._provenances[-1]
            _require_same_model(known, provenance)
            if provenance.weights_epoch < known.weights_epoch:
                return self._again(indices, known.weights_epoch, provenance.weights_epoch)
            if provenance.weights_epoch > known.weights_epoch:
                self._provenances.clear()
                stale = [
                    index
                    for index, entry in enumerate(self._entries)
                    if entry.outcome is not None and not isinstance(entry.outcome, Failure)
                ]
                self._settle(indices, result.outcomes)
                self._provenances.append(provenance)
                return self._again(stale, provenance.weights_epoch, known.weights_epoch)
        self._provenances.append(provenance)
        self._settle(indices, result.outcomes)
        return []

    def _again(self, indices: Sequence[int], expected: int, actual: int) -> list[int]:
        again = [i for i in indices if self._entries[i].num_turns < _MAX_TURNS]
        self._settle(again, [None] * len(again))
        rest = [i for i in indices if i not in again]
        self._settle(rest, [Failure(_out_of_date(expected, actual))] * len(rest))
        return again

    def _settle(self, indices: Iterable[int], outcomes: Iterable[ScoreOutcome | None]) -> None:
        for index, outcome in zip(indices, outcomes, strict=True):
            self._entries[index].outcome = outcome

    def _outcome(self, index: int) -> ScoreOutcome | None:
        entry = self._entries[index]
        source = entry if entry.duplicate_of is None else self._entries[entry.duplicate_of]
        return source.outcome

    def _consider(self) -> None:
        """Ends the choice if what is known is enough."""
        if self._stop is not None:
            return
        rewards = [self._attempt(index).reward for index in range(len(self._entries))]
        if self._good_enough is not None and any(
            reward is not None and reward >= self._good_enough for reward in rewards
        ):
            self._stop = StopReason.GOOD_ENOUGH
            return
        self._consult_rule(rewards)

    def _consult_rule(self, rewards: Sequence[float | None]) -> None:
        # Only as far as everything is known: what finishes first is no random draw.
        num_done = 0
        while num_done < len(self._entries) and self._is_done(num_done):
            num_done += 1
        num_left = self._num_candidates - num_done
        seen = [reward for reward in rewards[:num_done] if reward is not None]
        considered = num_done, seen
        if self._stopping is None or not seen or not num_left or considered == self._considered:
            return
        self._considered = considered
        risk = self._stopping.risk(seen, num_left, self._num_candidates)
        if risk <= self._stopping.max_risk:
            self._stop, self._risk = StopReason.CLEAR, risk

    def _is_done(self, index: int) -> bool:
        entry = self._entries[index]
        if entry.sample is None:
            return False
        return not entry.is_eligible or self._outcome(index) is not None

    def _attempt(self, index: int) -> Attempt[C]:
        entry = self._entries[index]
        if entry.sample is None:
            return Attempt(index)
        content, finish = entry.sample.content, entry.sample.finish
        if isinstance(content, GenerationError):
            return Attempt(index, None, finish, content)
        return Attempt(index, content, finish, None, self._outcome(index), entry.duplicate_of)


def _require_same_model(known: Provenance, other: Provenance) -> None:
    for field in ("model_fingerprint", "template_hash"):
        expected, actual = getattr(known, field), getattr(other, field)
        if expected != actual:
            raise ServerFault(
                f"candidates were judged by different models, by their {field}:"
                " endpoints must serve the same model",
                code=grpc.StatusCode.FAILED_PRECONDITION,
                metadata={"field": field, "expected": expected, "actual": actual},
            )


def _out_of_date(expected: int, actual: int) -> RewardError:
    return RequestRefused(
        "the weights moved while candidates were generated, and not for this one in time",
        code=grpc.StatusCode.FAILED_PRECONDITION,
        reason=ErrorReason.WRONG_EPOCH,
        metadata={"expected": str(expected), "actual": str(actual)},
    )


def _nothing_judged(attempts: Sequence[Attempt[C]]) -> NothingJudged:
    failures = [a.outcome.error for a in attempts if isinstance(a.outcome, Failure)]
    reasons = {error.reason or error.code.name for error in failures}
    reasons |= {type(a.error).__name__ for a in attempts if a.error is not None}
    reasons |= {
        f"finish: {a.finish}"
        for a in attempts
        if a.candidate is not None and a.outcome is None and a.finish is not None
    }
    return NothingJudged(
        f"none of {len(attempts)} candidates has a reward"
        f" ({', '.join(sorted(reasons)) or 'no reward is a finite number'})",
        failures=failures,
    )


def _first_error(attempts: Sequence[Attempt[C]]) -> GenerationError | None:
    return next((a.error for a in attempts if a.error is not None), None)
