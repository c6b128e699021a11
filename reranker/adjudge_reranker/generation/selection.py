"""What came of generating candidates and choosing among them: the winner and its evidence."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic

from adjudge_reranker.errors import RewardError
from adjudge_reranker.generation.errors import GenerationError
from adjudge_reranker.generation.samples import C, Finish
from adjudge_reranker.types import Failure, Provenance, ScoreOutcome


class StopReason(StrEnum):
    """Why no more candidates were generated."""

    ALL_GENERATED = "all generated"
    """As many as were asked for, failed ones included."""
    GOOD_ENOUGH = "good enough"
    """A reward reached `good_enough`."""
    CLEAR = "clear"
    """The stopping rule's risk came down to its `max_risk`."""
    POLICY_ENDED = "policy ended"
    """The policy gave fewer than were asked for, for example because it refuses requests."""


@dataclass(frozen=True, slots=True)
class Attempt(Generic[C]):
    """One candidate that was begun, and what came of it."""

    index: int
    """Its place in the order of asking, from 0."""
    candidate: C | None = None
    """None if it failed or was cancelled."""
    finish: Finish | None = None
    error: GenerationError | None = None
    """Why there is no candidate; None if there is one, or if it was cancelled."""
    outcome: ScoreOutcome | None = None
    """None if it was not judged: there is no candidate, or it is not complete."""
    duplicate_of: int | None = None
    """The first candidate equal to this one, whose outcome it shares."""

    @property
    def reward(self) -> float | None:
        """Finite; None if it has none."""
        if self.outcome is None or isinstance(self.outcome, Failure):
            return None
        return self.outcome.reward if math.isfinite(self.outcome.reward) else None

    @property
    def is_cancelled(self) -> bool:
        """Whether it was being generated when generating ended."""
        return self.candidate is None and self.error is None


@dataclass(frozen=True, slots=True)
class Winner(Generic[C]):
    """The candidate with the highest reward; of equals the one asked for first."""

    index: int
    candidate: C
    reward: float


@dataclass(frozen=True, slots=True)
class Selection(Generic[C]):
    """The best of the candidates that were generated, and how it was found."""

    best: Winner[C]
    attempts: tuple[Attempt[C], ...]
    """All that were begun, in the order of asking."""
    stop: StopReason
    risk: float | None
    """The stopping rule's risk when it stopped; None if it did not."""
    num_candidates: int
    """N: as many were allowed."""
    provenances: tuple[Provenance, ...]
    """Of the calls to the scorer that gave the rewards, in the order of their answers."""

    @property
    def num_begun(self) -> int:
        return len(self.attempts)

    @property
    def num_generated(self) -> int:
        """Candidates that were finished."""
        return sum(attempt.candidate is not None for attempt in self.attempts)

    @property
    def num_cancelled(self) -> int:
        return sum(attempt.is_cancelled for attempt in self.attempts)

    @property
    def num_scored(self) -> int:
        """Candidates that the scorer was asked about: those that are complete, equal ones once."""
        return sum(
            attempt.outcome is not None and attempt.duplicate_of is None
            for attempt in self.attempts
        )

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """One for each attempt. `calibrate` takes these, of selections that did not stop early."""
        return tuple(attempt.reward for attempt in self.attempts)

    @property
    def failures(self) -> tuple[RewardError, ...]:
        """Why candidates that were judged have no reward."""
        outcomes = [attempt.outcome for attempt in self.attempts]
        return tuple(outcome.error for outcome in outcomes if isinstance(outcome, Failure))

    @property
    def generation_errors(self) -> tuple[GenerationError, ...]:
        """Why candidates could not be generated."""
        return tuple(a.error for a in self.attempts if a.error is not None)
