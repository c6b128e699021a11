"""Rewards for all, comparisons for the few that lead by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from adjudge_reranker.content import CandidateLike
from adjudge_reranker.errors import RewardError
from adjudge_reranker.ranking import RankedCandidate, Ranking
from adjudge_reranker.standings import RoundRobin, Table

C = TypeVar("C", bound=CandidateLike)


@dataclass(frozen=True, slots=True)
class ScoredThenCompared(Generic[C]):
    """Candidates by reward, and the leading ones by comparisons."""

    scores: Ranking[C]
    """All candidates, by reward alone."""
    final: RoundRobin[C] | None
    """Those that lead `scores`. Equally strong ones, and those without a strength, keep the order
    of their rewards. None if only one candidate has a reward."""

    @property
    def entries(self) -> tuple[RankedCandidate[C], ...]:
        """All candidates from best to worst: the finalists by strength, the rest by reward, and
        last those without a reward."""
        if self.final is None:
            return self.scores.entries
        by_index = {entry.index: entry for entry in self.scores.entries}
        finalists = [by_index.pop(standing.index) for standing in self.final.entries]
        return (*finalists, *by_index.values())

    @property
    def best(self) -> RankedCandidate[C]:
        """The strongest finalist; it has a reward."""
        return self.entries[0]

    @property
    def num_comparisons(self) -> int:
        """How many were asked for, those that failed included."""
        return 0 if self.final is None else self.final.num_comparisons

    @property
    def failures(self) -> tuple[RewardError, ...]:
        """Why rewards, and then why comparisons, are missing."""
        return self.scores.failures + (() if self.final is None else self.final.failures)


def final_of(
    candidates: Sequence[C], scores: Ranking[C], top: int, prior: float
) -> Table[C] | None:
    """A round robin of the `top` best that have a reward; None if fewer than two have."""
    finalists = [entry.index for entry in scores.entries[:top] if entry.is_judged]
    return Table(candidates, finalists, prior) if len(finalists) > 1 else None


def require_final(top: int) -> None:
    """Raises ValueError if so few finalists cannot be compared."""
    if top < 2:
        raise ValueError(f"top must be at least 2, not {top}")
