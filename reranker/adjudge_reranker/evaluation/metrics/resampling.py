"""The bootstrap: a statistic over samples drawn again with replacement, by item or by cluster."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Interval: TypeAlias = tuple[float, float]
Sample: TypeAlias = int | Integers
"""How many items there are; or, if they are not independent, the cluster of each, shape (n,)."""

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 1000
SEED: Final = 0
"""So that equal readings give equal intervals."""


def resampled(samples: Sequence[Sample], statistic: Callable[..., Any]) -> Floats | None:
    """A statistic of one sample or of several independent ones, over resamples of them.

    One resample is in memory at a time. Whole clusters are drawn, as many as there are.

    Args:
        samples: What is drawn from.
        statistic: Takes one array of indices for each sample; returns a number or an array.

    Returns:
        Shape (RESAMPLES, ...). None if a sample has fewer than two items or clusters, or a resample
        has no such statistic (NaN).
    """
    drawers = [_Items(one) if isinstance(one, int) else _Clusters(one) for one in samples]
    if not drawers or min(drawer.num_units for drawer in drawers) < 2:
        return None
    rng = np.random.default_rng(SEED)
    values = []
    for _ in range(RESAMPLES):
        value = np.asarray(statistic(*(drawer.draw(rng) for drawer in drawers)), np.float64)
        if np.isnan(value).any():
            return None
        values.append(value)
    return np.stack(values)


def bootstrap(samples: Sequence[Sample], statistic: Callable[..., float]) -> Interval | None:
    """The percentile interval of a statistic, None where `resampled` is."""
    values = resampled(samples, statistic)
    return None if values is None else tails(values)


def tails(values: Floats) -> Interval:
    """What cuts off 2.5 % of an array of shape (n,) at either end."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


class _Items:
    def __init__(self, size: int) -> None:
        self.num_units = size

    def draw(self, rng: np.random.Generator) -> Integers:
        return rng.integers(0, self.num_units, self.num_units)


class _Clusters:
    def __init__(self, cluster: Integers) -> None:
        self._order = np.argsort(cluster, kind="stable")
        _, self._starts, self._sizes = np.unique(
            cluster[self._order], return_index=True, return_counts=True
        )
        self.num_units = int(self._sizes.size)

    def draw(self, rng: np.random.Generator) -> Integers:
        drawn = rng.integers(0, self.num_units, self.num_units)
        sizes = self._sizes[drawn]
        # Where each drawn cluster's members stand in `order`, one run after the other.
        offset = np.repeat(self._starts[drawn] - (np.cumsum(sizes) - sizes), sizes)
        members: Integers = self._order[offset + np.arange(offset.size)]
        return members
