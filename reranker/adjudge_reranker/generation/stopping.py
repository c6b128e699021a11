"""When to stop generating: rules for "the best so far will probably stay the best".

A rule sees the rewards of the first candidates, in the order in which they were *asked for*. Those
that finish first tend to be the short ones, and rules built on random order would be wrong of them.

What no rule can do: whatever the rewards' distribution, one that keeps the best of N with
probability 1 - risk knows no more than ranks (an argument by Ramsey's theorem: Moran, Snir and
Manber 1985; Correa, Duetting, Fischer and Schewior 2019), so `ByRank` cannot be improved upon
without knowing something. `IfNormal` knows a family, `Calibrated` knows earlier prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from adjudge_reranker.generation.normal import normal_chance, rank_chance


class StoppingRule(Protocol):
    """Says how sure it is that nothing better is left to generate."""

    @property
    def max_risk(self) -> float:
        """Generating stops when the risk is no more than this."""
        ...

    def risk(self, rewards: Sequence[float], num_left: int, num_candidates: int) -> float:
        """A bound on the probability that stopping now misses something better, in [0, 1].

        `rewards` are finite, one or more, in the order of asking; `num_left` of `num_candidates`
        have not been seen. Those that are neither have no reward.
        """
        ...


@dataclass(frozen=True, slots=True)
class ByRank:
    """Stops when the best of all N is left to come with probability m / N at most, m being left.

    Assumes only that candidates are independent draws of one policy. So it saves a share
    `max_risk` of the candidates, and no more.
    """

    max_risk: float
    """In [0, 1]."""

    def __post_init__(self) -> None:
        _require_share(self.max_risk)

    def risk(self, rewards: Sequence[float], num_left: int, num_candidates: int) -> float:
        return rank_chance(len(rewards), num_left)


@dataclass(frozen=True, slots=True)
class IfNormal:
    """Stops when the best so far stands out from the others, as normal values go.

    Assumes that one prompt's rewards are independent and normal, of any mean and variance; then it
    misses the best of N with probability `max_risk` at most, exactly (see `normal_chance`). Where
    tails are heavier, or a few answers are good and the rest bad, it misses more: calibrate it.
    The problem is the full-information secretary's with an unknown location and scale.
    """

    max_risk: float
    """In [0, 1]."""

    def __post_init__(self) -> None:
        _require_share(self.max_risk)

    def risk(self, rewards: Sequence[float], num_left: int, num_candidates: int) -> float:
        return normal_chance(rewards, num_left)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Stops when `normal_chance` is under a threshold that earlier prompts justify.

    `calibrate` makes it and says what it assumes.
    """

    max_risk: float
    """The probability of losing, over prompts; in [0, 1]."""
    threshold: float
    """Of `normal_chance`; 0 never stops."""
    num_candidates: int
    """N: the rule holds for no other."""

    def risk(self, rewards: Sequence[float], num_left: int, num_candidates: int) -> float:
        """Either `max_risk` or 1, which says nothing. Raises ValueError for another N."""
        if num_candidates != self.num_candidates:
            raise ValueError(
                f"a rule calibrated for {self.num_candidates} candidates, not {num_candidates}"
            )
        settled = normal_chance(rewards, num_left) < self.threshold
        return self.max_risk if settled else 1.0


def calibrate(
    histories: Sequence[Sequence[float | None]],
    *,
    max_risk: float,
    num_candidates: int,
    tolerance: float = 0.0,
) -> Calibrated:
    """A rule that loses on one prompt of 1 / `max_risk` at most.

    To lose is to settle for a reward more than `tolerance` (in the reward's units) below the best
    of N. `histories` are the rewards of earlier prompts, each N or more in the order of asking;
    None or NaN where there was none.

    Assumes that prompts are exchangeable: the next one is like those of the histories, for the same
    policy, critic and N. Nothing is assumed of the rewards of one prompt. It is a split conformal
    bound (Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2021): each history has a
    critical value, the smallest threshold above which it is lost; of R of them the k-th smallest
    is taken, k = floor(max_risk (R + 1)), and the next prompt's is below it with probability
    k / (R + 1) at most. With fewer than 1 / max_risk - 1 histories the rule never stops.

    Raises ValueError if a history is shorter than N.
    """
    _require_share(max_risk)
    if num_candidates < 1:
        raise ValueError(f"num_candidates must be at least 1, not {num_candidates}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be finite and not negative: {tolerance}")
    critical = sorted(_critical(row, num_candidates, tolerance) for row in histories)
    # A little more, because 0.1 * 10 must not fall short of 1.
    rank = math.floor(max_risk * (len(critical) + 1) + 1e-9)
    threshold = critical[min(rank, len(critical)) - 1] if rank and critical else 0.0
    return Calibrated(max_risk, threshold, num_candidates)


def _critical(row: Sequence[float | None], num_candidates: int, tolerance: float) -> float:
    """The lowest `normal_chance` at which stopping loses; infinite if it loses nowhere."""
    if len(row) < num_candidates:
        raise ValueError(f"a history of {len(row)} rewards, not {num_candidates}")
    seen: list[float] = []
    lowest = math.inf
    rewards = [r for r in row[:num_candidates] if r is not None and math.isfinite(r)]
    best = max(rewards, default=-math.inf)
    for place, reward in enumerate(row[:num_candidates], start=1):
        if reward is not None and math.isfinite(reward):
            seen.append(reward)
        if not seen:
            continue
        if max(seen) >= best - tolerance:
            break
        # After one without a reward as well: rules are asked again, with fewer left.
        lowest = min(lowest, normal_chance(seen, num_candidates - place))
    return lowest


def _require_share(max_risk: float) -> None:
    if not 0 <= max_risk <= 1:
        raise ValueError(f"max_risk is a probability, not {max_risk}")
