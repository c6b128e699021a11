"""How the rewards of several critics become one: pure maths, on a common scale.

The mean, the worst case (WCO) and the mean less a multiple of the members' disagreement (UWO) are
those of Coste et al., Reward Model Ensembles Help Mitigate Overoptimization, arXiv 2310.02743, with
weights added. UWO takes off a multiple of the variance; the standard deviation has the rewards' own
unit, so that the penalty means the same on every scale.

Weighted mean and minimum never fall when a member's reward rises. A penalised mean may: what sets a
member apart from the others is taken off, even where it is praise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product

import numpy as np
from numpy.typing import NDArray

MAX_MEMBERS = 12
"""The lowest penalised reward is looked for among all 2**n corners of the members' ranges."""
Range = tuple[float, float]
_Floats = NDArray[np.float64]


class Combination(Enum):
    WEIGHTED = "weighted"
    MINIMUM = "minimum"
    SPREAD_PENALISED = "spread-penalised"


class Spread(Enum):
    """What measures the members' disagreement. Both are the population's, each member counted with
    its share of the weights."""

    STANDARD_DEVIATION = "standard-deviation"
    VARIANCE = "variance"


@dataclass(frozen=True, slots=True)
class Rule:
    """How rewards are combined."""

    combination: Combination
    weights: tuple[float, ...]
    """Greater than 0, one a member; all equal where they mean nothing."""
    penalty: float = 0.0
    """0 or more. Means nothing unless the spread is penalised."""
    spread: Spread = Spread.STANDARD_DEVIATION


@dataclass(frozen=True, slots=True)
class Combined:
    reward: float
    spread: float
    """sqrt(sum(w (r - mean)^2) / sum(w)), whatever the rule takes off."""


def combine(rule: Rule, rewards: Sequence[float]) -> Combined:
    """One finite reward a member, in order. Numbers that overflow give what is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(rewards, dtype=np.float64)
        (reward,) = _combined(rule, values[None, :])
        (deviation,) = _deviations(_shares(rule), values[None, :])
    return Combined(float(reward), float(deviation))


def reward_range(rule: Rule, ranges: Sequence[Range | None]) -> Range | None:
    """Bounds of the combination, given those of the members' rewards: as narrow as can be said
    without knowing how members go together, though a penalised mean need not reach the upper one.
    None where a member has none."""
    bounded = [bounds for bounds in ranges if bounds is not None]
    if len(bounded) < len(ranges):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        ends = zip(*bounded, strict=True)
        lowest, highest = (np.array([end], dtype=np.float64) for end in ends)
        if rule.combination is Combination.SPREAD_PENALISED:
            # Concave in the rewards, so that its least value lies in a corner.
            corners = np.array(list(product(*bounded)), dtype=np.float64)
            low, high = _combined(rule, corners).min(), _means(_shares(rule), highest)[0]
        else:
            low, high = _combined(rule, lowest)[0], _combined(rule, highest)[0]
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def _shares(rule: Rule) -> _Floats:
    weights = np.array(rule.weights, dtype=np.float64)
    weights /= weights.max()  # first, so that no sum of them overflows
    shares: _Floats = weights / weights.sum()
    return shares


def _combined(rule: Rule, values: _Floats) -> _Floats:
    """Of each row."""
    if rule.combination is Combination.MINIMUM:
        lowest: _Floats = values.min(axis=1)
        return lowest
    shares = _shares(rule)
    means = _means(shares, values)
    if rule.combination is Combination.WEIGHTED or rule.penalty == 0:
        return means
    spreads = _deviations(shares, values)
    if rule.spread is Spread.VARIANCE:
        spreads = spreads**2
    return means - rule.penalty * spreads


def _means(shares: _Floats, values: _Floats) -> _Floats:
    # Rounding may carry a mean past what it is the mean of.
    means: _Floats = np.clip(values @ shares, values.min(axis=1), values.max(axis=1))
    return means


def _deviations(shares: _Floats, values: _Floats) -> _Floats:
    differences = values - _means(shares, values)[:, None]
    deviations: _Floats = np.sqrt(differences**2 @ shares)
    return deviations
