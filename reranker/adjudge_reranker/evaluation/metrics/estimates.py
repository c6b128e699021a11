"""A figure with its sample size and its 95 % confidence interval, and the ways to get one.

Items that share a picture or a prompt tend to be judged right or wrong together. Where `cluster`
says which do, shape (n,), intervals are as wide as that makes them; without it, or if every item is
a cluster of its own, items are taken for independent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from adjudge_reranker.evaluation.extras import extra_for
from adjudge_reranker.evaluation.metrics.resampling import (
    CONFIDENCE,
    Floats,
    Integers,
    Interval,
    Sample,
    bootstrap,
)

with extra_for("evaluation"):
    from scipy import stats

Bools: TypeAlias = NDArray[np.bool_]
_UPPER = (1 + CONFIDENCE) / 2


class Method(StrEnum):
    """How an interval was found."""

    WILSON = "wilson"
    """Wilson's score interval of a share (Wilson 1927, JASA 22:209). Of clusters: with the
    effective sample size, see `share`."""
    FISHER_Z = "fisher z"
    """Fisher's transformation of a correlation; for Spearman's with the variance of Bonett and
    Wright 2000, Psychometrika 65:23, which is (1 + r²/2) / (n - 3)."""
    BOOTSTRAP = "bootstrap"
    """Percentiles over 1000 resamples of whole items, or whole clusters, seed 0."""
    BASIC_BOOTSTRAP = "basic bootstrap"
    """The same resamples, but reversed percentiles: see `calibration`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over `n` answered items."""

    value: float | None
    """None where it is not defined: over nothing, or a correlation with something constant."""
    n: int
    interval: Interval | None
    """(low, high) at 95 %; None where there are too few items or clusters for one."""
    method: Method
    clusters: int | None = None
    """How many clusters the items make; None if every item is its own."""


def share(right: Bools, cluster: Integers | None = None) -> Estimate:
    """The share of an array of shape (n,) that is true, in [0, 1]. Wilson.

    Clusters widen the interval by the design effect: n is replaced by n p (1 - p) / (variance of p
    between clusters, n at most), times (t with n - 1 / t with k - 1 degrees of freedom)² for k
    clusters (Korn and Graubard 1998, Survey Methodology 24:193). Where all or none are right there
    is no variance to measure, and members of a cluster count as one (Kish): n² / Σ size². Unlike a
    bootstrap, that has some width there too.
    """
    n = int(right.size)
    if n == 0:
        return Estimate(None, 0, None, Method.WILSON)
    value, clusters = float(right.mean()), num_clusters(cluster)
    interval: Interval | None
    if cluster is None or clusters is None:
        interval = _wilson(value, n)
    else:
        interval = _wilson(value, _effective_size(right, cluster)) if clusters > 1 else None
    return Estimate(value, n, interval, Method.WILSON, clusters)


def mean(values: Floats, cluster: Integers | None = None) -> Estimate:
    """The mean of an array of shape (n,), in its units. Bootstrap."""
    n = int(values.size)
    if n == 0:
        return Estimate(None, 0, None, Method.BOOTSTRAP)
    interval = bootstrap([sample(n, cluster)], lambda index: float(values[index].mean()))
    return Estimate(float(values.mean()), n, interval, Method.BOOTSTRAP, num_clusters(cluster))


def pearson(x: Floats, y: Floats, cluster: Integers | None = None) -> Estimate:
    """The linear correlation of two arrays of shape (n,), in [-1, 1]. Fisher's z; bootstrap of
    clusters."""
    if cluster is not None and num_clusters(cluster) is not None:
        return _clustered_correlation(x, y, cluster, stats.pearsonr)
    if not _can_correlate(x, y):
        return Estimate(None, int(x.size), None, Method.FISHER_Z)
    result = stats.pearsonr(x, y)
    interval = None
    if x.size > 3:
        found = result.confidence_interval(CONFIDENCE)
        interval = float(found.low), float(found.high)
    return Estimate(float(result.statistic), int(x.size), interval, Method.FISHER_Z)


def spearman(x: Floats, y: Floats, cluster: Integers | None = None) -> Estimate:
    """The rank correlation of two arrays of shape (n,), equal values sharing their mean rank, in
    [-1, 1]. Fisher's z with Bonett and Wright's variance; bootstrap of clusters."""
    if cluster is not None and num_clusters(cluster) is not None:
        return _clustered_correlation(x, y, cluster, stats.spearmanr)
    if not _can_correlate(x, y):
        return Estimate(None, int(x.size), None, Method.FISHER_Z)
    r = float(stats.spearmanr(x, y).statistic)
    interval = _spearman_interval(r, x.size) if x.size > 3 else None
    return Estimate(r, int(x.size), interval, Method.FISHER_Z)


def num_clusters(cluster: Integers | None) -> int | None:
    """How many there are; None if every item is its own."""
    if cluster is None:
        return None
    found = int(np.unique(cluster).size)
    return found if found < cluster.size else None


def sample(n: int, cluster: Integers | None) -> Sample:
    """What to resample: n items, or their clusters."""
    return n if cluster is None or num_clusters(cluster) is None else cluster


def taken(cluster: Integers | None, index: Bools) -> Integers | None:
    """The clusters of those items."""
    return None if cluster is None else cluster[index]


def _wilson(p: float, n: float) -> Interval:
    z = float(stats.norm.ppf(_UPPER))
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    # Rounding must not leave out the share itself.
    return (
        0.0 if p == 0 else max(0.0, (centre - half) / whole),
        1.0 if p == 1 else min(1.0, (centre + half) / whole),
    )


def _effective_size(right: Bools, cluster: Integers) -> float:
    n, p = right.size, float(right.mean())
    _, index = np.unique(cluster, return_inverse=True)
    sizes = np.bincount(index)
    if p in (0.0, 1.0):
        return float(n * n / (sizes**2).sum())
    k = sizes.size
    excess = np.bincount(index, right) - p * sizes
    variance = k / (k - 1) * float((excess**2).sum()) / n**2
    # Clusters that differ less than chance has them differ are no reason for a narrower interval.
    size = n if variance == 0 else min(n, p * (1 - p) / variance)
    return float(size * (stats.t.ppf(_UPPER, n - 1) / stats.t.ppf(_UPPER, k - 1)) ** 2)


def _clustered_correlation(
    x: Floats, y: Floats, cluster: Integers, correlate: Callable[[Floats, Floats], object]
) -> Estimate:
    def value(index: Integers) -> float:
        if not _can_correlate(x[index], y[index]):
            return math.nan
        return float(correlate(x[index], y[index]).statistic)  # type: ignore[attr-defined]

    r, n, clusters = value(np.arange(x.size)), int(x.size), num_clusters(cluster)
    if math.isnan(r):
        return Estimate(None, n, None, Method.BOOTSTRAP, clusters)
    return Estimate(r, n, bootstrap([cluster], value), Method.BOOTSTRAP, clusters)


def _can_correlate(x: Floats, y: Floats) -> bool:
    def varies(values: Floats) -> bool:
        # By more than rounding, which would correlate with anything.
        return bool(np.ptp(values) > 1e-12 * np.abs(values).max())

    return x.size > 1 and varies(x) and varies(y)


def _spearman_interval(r: float, n: int) -> Interval:
    if abs(r) >= 1:
        return r, r
    half = float(stats.norm.ppf(_UPPER)) * math.sqrt((1 + r * r / 2) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
