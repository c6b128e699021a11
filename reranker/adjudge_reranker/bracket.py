"""Who meets whom in a knockout, and what comes of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from adjudge_reranker.content import CandidateLike
from adjudge_reranker.contest import ComparedPair, Pair, failures_in, require_judged
from adjudge_reranker.errors import RewardError
from adjudge_reranker.types import Provenance

C = TypeVar("C", bound=CandidateLike)


@dataclass(frozen=True, slots=True)
class Round:
    """The comparisons of one call."""

    compared: tuple[ComparedPair, ...]
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class KnockoutEntry(Generic[C]):
    """A candidate and how far it came."""

    index: int
    """Its place in what was ranked, from 0."""
    candidate: C
    num_wins: int
    """Comparisons that it was preferred in, or tied in and advanced from as the better seeded."""
    num_failures: int
    """Its comparisons that have no result."""
    num_rounds: int
    """Rounds until it was out, that one included; all of them if it never was."""
    lost_to: int | None
    """The index of who knocked it out; None if nobody did."""

    @property
    def is_judged(self) -> bool:
        """Whether any comparison of it has a result."""
        return self.num_wins > 0 or self.lost_to is not None


@dataclass(frozen=True, slots=True)
class Knockout(Generic[C]):
    """Candidates by how far they came."""

    entries: tuple[KnockoutEntry[C], ...]
    """All of them: first who came further, of those out in one round first who was not beaten, then
    by seed. Those without any result come last."""
    rounds: tuple[Round, ...]

    @property
    def best(self) -> KnockoutEntry[C]:
        """Who came furthest; has won a comparison at least, and lost none."""
        return self.entries[0]

    @property
    def undefeated(self) -> tuple[int, ...]:
        """Indices of those whom nobody beat, in the order of `entries`. Only the best, unless
        comparisons failed: then the others were not found to be worse."""
        return tuple(entry.index for entry in self.entries if entry.lost_to is None)

    @property
    def compared(self) -> tuple[ComparedPair, ...]:
        """What was asked, in the order in which it was."""
        return tuple(pair for played in self.rounds for pair in played.compared)

    @property
    def num_comparisons(self) -> int:
        """How many were asked for, those that failed included."""
        return len(self.compared)

    @property
    def failures(self) -> tuple[RewardError, ...]:
        """Why comparisons are missing."""
        return failures_in(self.compared)


class Bracket(Generic[C]):
    """A knockout in progress. The rules are in the docstring of `knockout`."""

    def __init__(self, candidates: Sequence[C], seeded: Sequence[int], max_failures: int) -> None:
        """`seeded`: all indices, the strongest first."""
        if max_failures < 1:
            raise ValueError(f"max_failures must be at least 1, not {max_failures}")
        self._candidates = candidates
        self._seeded = list(seeded)
        self._max_failures = max_failures
        self._still_in = list(seeded)
        self._rounds: list[Round] = []
        self._in_vain: set[frozenset[int]] = set()
        self._wins: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._lost_to: dict[int, int] = {}
        self._out_in: dict[int, int] = {}

    def pairs(self) -> list[Pair]:
        """The next round: (stronger, weaker) by seed."""
        num = len(self._still_in)
        if num < 2:
            return []
        # As many as leave a power of two: all byes are in the first round, and the strongest have
        # them. If failures are in the way there, whoever can meet does.
        num_pairs = num - (1 << (num - 1).bit_length() - 1)
        return self._fold(self._still_in[num - 2 * num_pairs :]) or self._fold(self._still_in)

    def take(self, compared: tuple[ComparedPair, ...], provenance: Provenance) -> None:
        """Sees who is out."""
        self._rounds.append(Round(compared, provenance))
        for pair in compared:
            comparison = pair.comparison
            if comparison is None:
                self._in_vain.add(frozenset((pair.first, pair.second)))
                self._failures.update((pair.first, pair.second))
            elif comparison.preference >= 0.5 or comparison.within_noise:
                self._wins[pair.first] += 1
                self._lost_to[pair.second] = pair.first
            else:
                self._wins[pair.second] += 1
                self._lost_to[pair.first] = pair.second
        for index in self._still_in:
            if index in self._lost_to or self._failures[index] >= self._max_failures:
                self._out_in[index] = len(self._rounds)
        self._still_in = [index for index in self._still_in if index not in self._out_in]

    def result(self) -> Knockout[C]:
        """Raises NothingJudged if every comparison failed."""
        knockout = Knockout(
            tuple(sorted(map(self._entry, self._seeded), key=_place)), tuple(self._rounds)
        )
        require_judged(knockout.compared)
        return knockout

    def _fold(self, field: Sequence[int]) -> list[Pair]:
        """The strongest with the weakest, and so inwards; nobody whom it met in vain before."""
        waiting = list(field)
        pairs = []
        while waiting:
            strong = waiting.pop(0)
            for weak in reversed(waiting):
                if frozenset((strong, weak)) not in self._in_vain:
                    waiting.remove(weak)
                    pairs.append((strong, weak))
                    break
        return pairs

    def _entry(self, index: int) -> KnockoutEntry[C]:
        return KnockoutEntry(
            index=index,
            candidate=self._candidates[index],
            num_wins=self._wins[index],
            num_failures=self._failures[index],
            num_rounds=self._out_in.get(index, len(self._rounds)),
            lost_to=self._lost_to.get(index),
        )


def _place(entry: KnockoutEntry[C]) -> tuple[bool, int, bool]:
    # Sorting is stable: the rest is by seed.
    return not entry.is_judged, -entry.num_rounds, entry.lost_to is not None
