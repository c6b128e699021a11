"""What tournaments have in common: the pairs they ask for, and what comes back.

A contest says which pairs to compare next and is told what came of it. It makes no calls, so that
one serves clients that block and clients that do not.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from adjudge_reranker.content import CandidateLike
from adjudge_reranker.errors import NothingJudged, RewardError, ServerFault
from adjudge_reranker.types import CompareOutcome, CompareResult, Comparison, Failure, Provenance

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """Two candidates that were put before the critic, by their indices, and what came of it."""

    first: int
    second: int
    outcome: CompareOutcome
    """A Failure also where the comparer gave numbers that are none, such as NaN."""

    @property
    def comparison(self) -> Comparison | None:
        """None if the comparison failed."""
        return None if isinstance(self.outcome, Failure) else self.outcome

    @property
    def preference(self) -> float | None:
        """In [0, 1], above ½ for the first; None if the comparison failed."""
        return None if isinstance(self.outcome, Failure) else self.outcome.preference


class Contest(Protocol[T_co]):
    """A tournament in progress."""

    def pairs(self) -> list[Pair]:
        """What to compare next, in one call; empty when the contest is over."""
        ...

    def take(self, compared: tuple[ComparedPair, ...], provenance: Provenance) -> None:
        """What came of the pairs asked for, in their order."""
        ...

    def result(self) -> T_co:
        """How it ended."""
        ...


def play(
    contest: Contest[T],
    candidates: Sequence[CandidateLike],
    compare: Callable[[Sequence[CandidateLike], Sequence[Pair]], CompareResult],
) -> T:
    """Has `compare` answer what the contest asks, until it is over; raises what that raises."""
    while pairs := contest.pairs():
        result = compare(*_only_those_in(pairs, candidates))
        contest.take(_compared(pairs, result), result.provenance)
    return contest.result()


async def play_async(
    contest: Contest[T],
    candidates: Sequence[CandidateLike],
    compare: Callable[[Sequence[CandidateLike], Sequence[Pair]], Awaitable[CompareResult]],
) -> T:
    """`play`, for clients that do not block."""
    while pairs := contest.pairs():
        result = await compare(*_only_those_in(pairs, candidates))
        contest.take(_compared(pairs, result), result.provenance)
    return contest.result()


def failures_in(compared: Iterable[ComparedPair]) -> tuple[RewardError, ...]:
    """Why comparisons are missing."""
    return tuple(pair.outcome.error for pair in compared if isinstance(pair.outcome, Failure))


def require_judged(compared: Sequence[ComparedPair]) -> None:
    """Raises NothingJudged if every comparison failed."""
    failures = failures_in(compared)
    if len(failures) == len(compared):
        reasons = sorted({error.reason or error.code.name for error in failures})
        raise NothingJudged(
            f"none of {len(compared)} comparisons has a result ({', '.join(reasons)})",
            failures=failures,
        )


def require_several(candidates: Sequence[CandidateLike]) -> None:
    """Raises ValueError if there is nobody to compare with."""
    if len(candidates) < 2:
        raise ValueError(f"a tournament needs two candidates or more, not {len(candidates)}")


def _only_those_in(
    pairs: Sequence[Pair], candidates: Sequence[CandidateLike]
) -> tuple[Sequence[CandidateLike], Sequence[Pair]]:
    """Leaves out who is in no pair: they would travel for nothing, and one that the server cannot
    read would cost the others their comparisons."""
    used = sorted({index for pair in pairs for index in pair})
    place = {index: number for number, index in enumerate(used)}
    return [candidates[index] for index in used], [(place[a], place[b]) for a, b in pairs]


def _compared(pairs: Sequence[Pair], result: CompareResult) -> tuple[ComparedPair, ...]:
    if len(pairs) != len(result.outcomes):
        raise ValueError(f"{len(result.outcomes)} outcomes for {len(pairs)} pairs")
    return tuple(
        ComparedPair(first, second, _checked(outcome))
        for (first, second), outcome in zip(pairs, result.outcomes, strict=True)
    )


def _checked(outcome: CompareOutcome) -> CompareOutcome:
    if isinstance(outcome, Failure):
        return outcome
    # False for NaN as well.
    if math.isfinite(outcome.margin) and 0 <= outcome.preference <= 1:
        return outcome
    return Failure(
        ServerFault(
            f"margin {outcome.margin} and preference {outcome.preference} are no comparison"
        )
    )
