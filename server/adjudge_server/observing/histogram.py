"""Distributions whose bounds are known only at run time. Not thread-safe.

The client library of Prometheus gives one set of bounds to all series of a histogram; rewards have
the range of their template.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from adjudge_server.templates import Kind, RewardKind, Template

STEPS = 20
"""Buckets between the ends of a range."""
NATS = (-16.0, -8.0, -4.0, -2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Bounds for what has no range: margins, log-odds, scalar heads."""
MASSES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Bounds for probabilities that should be near 1."""


class Histogram:
    """Counts of values by the least bound that is not below them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them: how many values are at most each bound."""
        names = [*map(repr, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


def steps(low: float, high: float) -> tuple[float, ...]:
    """The range in equal steps; the first bucket holds the lowest value alone, which is where a
    critic that has collapsed, or a policy that has, may well be."""
    return tuple(round(low + (high - low) * i / STEPS, 9) for i in range(STEPS + 1))


def reward_bounds(template: Template) -> tuple[float, ...]:
    """Of a pointwise template's rewards, or a pairwise template's margins."""
    if template.kind is Kind.PAIRWISE or template.reward is not RewardKind.EXPECTED:
        return NATS
    return steps(min(template.scores), max(template.scores))
