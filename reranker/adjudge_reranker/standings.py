"""What a round robin says about each candidate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Generic, TypeVar

from adjudge_reranker.bradley_terry import BradleyTerry, fit_bradley_terry, require_prior
from adjudge_reranker.content import CandidateLike
from adjudge_reranker.contest import ComparedPair, Pair, failures_in
from adjudge_reranker.errors import RewardError
from adjudge_reranker.types import Provenance

C = TypeVar("C", bound=CandidateLike)

_EQUAL = 1e-8  # nats: what a fit in another order of the candidates could differ by


@dataclass(frozen=True, slots=True)
class Standing(Generic[C]):
    """A candidate among those it was compared with. What was not measured is None."""

    index: int
    """Its place in what was ranked, from 0."""
    candidate: C
    strength: float | None
    """Bradley and Terry's, in nats; 0 is the mean of those that have one."""
    standard_error: float | None
    """Of the strength, in nats; `BradleyTerry.difference` compares two candidates."""
    win_fraction: float | None
    """Mean preference for it over its comparisons, in [0, 1]; a tie is half a win."""
    aggregate: float | None
    """LLaVA-Critic's reward r_i = sum_k a_ki - sum_l a_il over both orders of each pair, where a_kl
    is by how much the critic prefers the *second* response, l, to the first, k: here minus the
    margin of k over l. In nats; positive is good; the position bias cancels. It equals
    2 * sum_j M(i, j) with M(i, j) the margin of i over j averaged over the orders. None if any
    comparison of it failed: sums of different length do not compare."""
    num_comparisons: int
    """Its comparisons that have a result."""


@dataclass(frozen=True, slots=True)
class RoundRobin(Generic[C]):
    """Candidates from the strongest to the weakest."""

    entries: tuple[Standing[C], ...]
    """All that took part. Equally strong ones keep the order in which they went in; those without a
    strength, whom no comparison connects with the others, come last."""
    compared: tuple[ComparedPair, ...]
    """Every pair, the lower index first."""
    fit: BradleyTerry
    """By the same indices as `entries`."""
    provenance: Provenance

    @property
    def best(self) -> Standing[C]:
        """The strongest candidate; of equals the first that went in."""
        return self.entries[0]

    @property
    def unconnected(self) -> tuple[int, ...]:
        """Indices of those that have no strength, because too many comparisons failed."""
        return tuple(entry.index for entry in self.entries if entry.strength is None)

    @property
    def num_comparisons(self) -> int:
        """How many were asked for, those that failed included."""
        return len(self.compared)

    @property
    def failures(self) -> tuple[RewardError, ...]:
        """Why comparisons are missing."""
        return failures_in(self.compared)


class Table(Generic[C]):
    """A round robin in progress: one call, and what follows from it."""

    def __init__(self, candidates: Sequence[C], entered: Iterable[int], prior: float) -> None:
        """`entered`: two indices or more, in the order that equals are to have."""
        require_prior(prior)
        self._candidates = candidates
        self._entered = list(entered)
        self._prior = prior
        self._answer: tuple[tuple[ComparedPair, ...], Provenance] | None = None

    def pairs(self) -> list[Pair]:
        """All of them, once."""
        return [] if self._answer else list(combinations(sorted(self._entered), 2))

    def take(self, compared: tuple[ComparedPair, ...], provenance: Provenance) -> None:
        """Keeps the one answer."""
        self._answer = compared, provenance

    def result(self) -> RoundRobin[C]:
        """To be asked for after the answer."""
        assert self._answer is not None
        compared, provenance = self._answer
        fit = fit_bradley_terry(
            len(self._candidates),
            [(pair.first, pair.second) for pair in compared],
            [pair.preference for pair in compared],
            prior=self._prior,
        )
        standings = [
            _standing(index, self._candidates[index], compared, fit) for index in self._entered
        ]
        return RoundRobin(tuple(_ordered(standings)), compared, fit, provenance)


def _standing(
    index: int, candidate: C, compared: Iterable[ComparedPair], fit: BradleyTerry
) -> Standing[C]:
    preferences: list[float] = []
    margins: list[float] = []
    num_asked = 0
    for pair in compared:
        if index not in (pair.first, pair.second):
            continue
        num_asked += 1
        if (comparison := pair.comparison) is not None:
            is_first = index == pair.first
            preferences.append(comparison.preference if is_first else 1 - comparison.preference)
            margins.append(comparison.margin if is_first else -comparison.margin)
    num = len(preferences)
    return Standing(
        index=index,
        candidate=candidate,
        strength=fit.strength(index),
        standard_error=fit.standard_error(index),
        win_fraction=sum(preferences) / num if num else None,
        aggregate=2 * sum(margins) if num == num_asked else None,
        num_comparisons=num,
    )


def _ordered(standings: Sequence[Standing[C]]) -> list[Standing[C]]:
    """By strength; equal ones, but for rounding, in the order given, and last those without."""
    place = {standing.index: number for number, standing in enumerate(standings)}
    strong = sorted(
        (entry for entry in standings if entry.strength is not None),
        key=lambda entry: -(entry.strength or 0.0),
    )
    ordered: list[Standing[C]] = []
    equal: list[Standing[C]] = []
    for entry in strong:
        if equal and (equal[-1].strength or 0.0) - (entry.strength or 0.0) > _EQUAL:
            ordered += sorted(equal, key=lambda entry: place[entry.index])
            equal = []
        equal.append(entry)
    ordered += sorted(equal, key=lambda entry: place[entry.index])
    return ordered + [entry for entry in standings if entry.strength is None]
