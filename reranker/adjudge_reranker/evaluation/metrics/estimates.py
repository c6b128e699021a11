"""A figure with its sample size and its 95 % confidence interval, and the ways to get one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adjudge_reranker.evaluation.extras import extra_for

with extra_for("evaluation"):
    from scipy import stats

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Integers: TypeAlias = NDArray[np.int64]
Interval: TypeAlias = tuple[float, float]

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 1000
SEED: Final = 0
"""Of the bootstrap, so that equal readings give equal intervals."""


class Method(StrEnum):
    """How an interval was found."""

    WILSON = "wilson"
    """Wilson's score interval of a share (Wilson 1927, JASA 22:209)."""
    FISHER_Z = "fisher z"
    """Fisher's transformation of a correlation; for Spearman's with the variance of Bonett and
    Wright 2000, Psychometrika 65:23, which is (1 + r²/2) / (n - 3)."""
    BOOTSTRAP = "bootstrap"
    """Percentiles over 1000 resamples of whole items, seed 0."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over `n` answered items."""

    value: float | None
    """None where it is not defined: over nothing, or a correlation with something constant."""
    n: int
    interval: Interval | None
    """(low, high) at 95 %; None where `n` is too small for one."""
    method: Method


def share(right: Bools) -> Estimate:
    """The share of an array of shape (n,) that is true, in [0, 1]. Wilson."""
    n = int(right.size)
    if n == 0:
        return Estimate(None, 0, None, Method.WILSON)
    test = stats.binomtest(int(right.sum()), n)
    interval = test.proportion_ci(CONFIDENCE, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return Estimate(float(right.mean()), n, (low, high), Method.WILSON)


def mean(values: Floats) -> Estimate:
    """The mean of an array of shape (n,), in its units. Bootstrap."""
    if values.size == 0:
        return Estimate(None, 0, None, Method.BOOTSTRAP)
    interval = bootstrap([values.size], lambda index: float(values[index].mean()))
    return Estimate(float(values.mean()), int(values.size), interval, Method.BOOTSTRAP)


def pearson(x: Floats, y: Floats) -> Estimate:
    """The linear correlation of two arrays of shape (n,), in [-1, 1]. Fisher's z."""
    if not _can_correlate(x, y):
        return Estimate(None, int(x.size), None, Method.FISHER_Z)
    result = stats.pearsonr(x, y)
    interval = None
    if x.size > 3:
        found = result.confidence_interval(CONFIDENCE)
        interval = float(found.low), float(found.high)
    return Estimate(float(result.statistic), int(x.size), interval, Method.FISHER_Z)


def spearman(x: Floats, y: Floats) -> Estimate:
    """The rank correlation of two arrays of shape (n,), equal values sharing their mean rank, in
    [-1, 1]. Fisher's z with Bonett and Wright's variance."""
    if not _can_correlate(x, y):
        return Estimate(None, int(x.size), None, Method.FISHER_Z)
    r = float(stats.spearmanr(x, y).statistic)
    interval = _spearman_interval(r, x.size) if x.size > 3 else None
    return Estimate(r, int(x.size), interval, Method.FISHER_Z)


def bootstrap(sizes: Sequence[int], statistic: Callable[..., float]) -> Interval | None:
    """The percentile interval of a statistic of one sample or of several independent ones.

    Args:
        sizes: How many items each sample has.
        statistic: Takes one array of indices for each sample, drawn with replacement.

    Returns:
        None if a sample has fewer than two items, or a resample has no such statistic (NaN).
    """
    if not sizes or min(sizes) < 2:
        return None

    def defined(*index: Integers) -> float:
        value = statistic(*index)
        if math.isnan(value):
            raise _UndefinedError
        return value

    try:
        result = stats.bootstrap(
            [np.arange(size) for size in sizes],
            defined,
            vectorized=False,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(SEED),
        )
    except _UndefinedError:
        return None
    low, high = map(float, result.confidence_interval)
    return low, high


class _UndefinedError(Exception):
    """A resample has no such statistic."""


def _can_correlate(x: Floats, y: Floats) -> bool:
    def varies(values: Floats) -> bool:
        # By more than rounding, which would correlate with anything.
        return bool(np.ptp(values) > 1e-12 * np.abs(values).max())

    return x.size > 1 and varies(x) and varies(y)


def _spearman_interval(r: float, n: int) -> Interval:
    if abs(r) >= 1:
        return r, r
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + r * r / 2) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
