"""Which candidates of one prompt make a pair. Pure; knows neither servers nor files."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise
from typing import Final


class Pairing(StrEnum):
    """Which pairs are made of candidates in the order of their rewards."""

    BEST_WORST = "best-worst"
    """One: the best and the worst."""
    BEST_RANDOM = "best-random"
    """One: the best, and one drawn evenly from those that it beats."""
    ALL = "all"
    """Every two."""
    ADJACENT = "adjacent"
    """Each with the next."""


class NoPair(StrEnum):
    """Why a prompt gave no pair, though nothing failed."""

    TOO_FEW_CANDIDATES = "TOO_FEW_CANDIDATES"
    """Fewer than two that differ in more than whitespace."""
    TIED = "TIED"
    """All rewards are equal."""
    WITHIN_NOISE = "WITHIN_NOISE"
    """No difference is larger than the critic's noise."""
    UNDER_MARGIN = "UNDER_MARGIN"
    """No difference is as large as asked for."""
    NOT_CONFIRMED = "NOT_CONFIRMED"
    """Comparisons in both orders did not agree with the rewards."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate with what the critic thinks of it."""

    index: int
    """Its place among the prompt's candidates, from 0."""
    text: str
    reward: float | None
    """None if it failed. One that is not finite counts as none."""
    noise: float = 0.0
    """By how much the reward may be off, in its units; 0 or more."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two candidates, by their indices."""

    chosen: int
    rejected: int
    margin: float
    """Reward of the chosen one minus that of the rejected one; over 0."""


def choose_pairs(
    contenders: Sequence[Contender],
    pairing: Pairing = Pairing.BEST_WORST,
    *,
    min_margin: float = 0.0,
    rng: random.Random | None = None,
) -> tuple[Pair, ...] | NoPair:
    """The pairs, those of the best first, or why there are none.

    Of candidates that are equal but for whitespace only the first with a reward takes part. In each
    pair the margin is over 0, at least `min_margin`, and over the noise of both rewards together.
    `rng` draws for BEST_RANDOM. Equal rewards are ordered by index.
    """
    judged = [one for one in contenders if one.reward is not None and math.isfinite(one.reward)]
    different = set(distinct([one.text for one in judged]))
    ranked = [one for place, one in enumerate(judged) if place in different]
    ranked.sort(key=lambda one: (-_reward(one), one.index))
    if len(ranked) < 2:
        return NoPair.TOO_FEW_CANDIDATES
    considered = list(_CONSIDERED[pairing](ranked))
    problems = [_problem(better, worse, min_margin) for better, worse in considered]
    sound = [two for two, problem in zip(considered, problems, strict=True) if problem is None]
    if not sound:
        # What came closest to a pair says most about the prompt.
        return max((one for one in problems if one is not None), key=_CLOSENESS.index)
    if pairing is Pairing.BEST_RANDOM:
        sound = [(rng or random.Random(0)).choice(sound)]
    return tuple(Pair(a.index, b.index, _reward(a) - _reward(b)) for a, b in sound)


def distinct(texts: Sequence[str]) -> tuple[int, ...]:
    """Indices of the texts that differ from all before them in more than whitespace."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        first.setdefault(" ".join(text.split()), index)
    return tuple(first.values())


_Two = tuple[Contender, Contender]
_CONSIDERED: Final[dict[Pairing, Callable[[Sequence[Contender]], Iterator[_Two]]]] = {
    Pairing.BEST_WORST: lambda ranked: iter([(ranked[0], ranked[-1])]),
    Pairing.BEST_RANDOM: lambda ranked: ((ranked[0], other) for other in ranked[1:]),
    Pairing.ALL: lambda ranked: combinations(ranked, 2),
    Pairing.ADJACENT: pairwise,
}
_CLOSENESS: Final = (NoPair.TIED, NoPair.WITHIN_NOISE, NoPair.UNDER_MARGIN)


def _problem(better: Contender, worse: Contender, min_margin: float) -> NoPair | None:
    margin = _reward(better) - _reward(worse)
    if margin == 0:
        return NoPair.TIED
    # So written that a noise of NaN makes no pair, nor a difference that overflows.
    if not (better.noise + worse.noise < margin < math.inf):
        return NoPair.WITHIN_NOISE
    return None if margin >= min_margin else NoPair.UNDER_MARGIN


def _reward(contender: Contender) -> float:
    assert contender.reward is not None  # only contenders with one are ranked
    return contender.reward
