"""Does a critic mean what it says? Expected calibration error, and what a diagram of it needs."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from adjudge_reranker.evaluation.metrics.estimates import Estimate, Floats, Method, bootstrap

NUM_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Readings between `low` and `high`, and what their labels were."""

    low: float
    high: float
    """Excluded, but for the last bin."""
    count: int
    """At least 1: empty bins are left out."""
    mean_said: float
    mean_label: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The expected calibration error and the bins it is summed over."""

    error: Estimate
    """In the units of what was said; 0 is perfect. Small samples are biased upwards."""
    bins: tuple[Bin, ...]


def calibration(said: Floats, label: Floats, *, scale: float) -> Calibration:
    """How far what was said is from what the labels were, over 10 bins of equal width.

    The error is the mean over bins, weighted by their counts, of |mean said - mean label| (Naeini
    et al. 2015, AAAI; Guo et al. 2017, arXiv 1706.04599, with mean labels for accuracies).
    Bootstrap over items.

    Args:
        said: Shape (n,), or (k, n) for k readings of each of n items; in [0, scale].
        label: The same shape and range.
        scale: Where the last bin ends.
    """
    n = int(said.shape[-1])
    if n == 0:
        return Calibration(Estimate(None, 0, None, Method.BOOTSTRAP), ())
    interval = bootstrap([n], lambda i: _error(said[..., i], label[..., i], scale))
    error = Estimate(_error(said, label, scale), n, interval, Method.BOOTSTRAP)
    counts, said_sums, label_sums = _binned(said, label, scale)
    width = scale / NUM_BINS
    bins = (
        Bin(
            low=b * width,
            high=(b + 1) * width,
            count=int(counts[b]),
            mean_said=float(said_sums[b] / counts[b]),
            mean_label=float(label_sums[b] / counts[b]),
        )
        for b in np.flatnonzero(counts).tolist()
    )
    return Calibration(error, tuple(bins))


def _error(said: Floats, label: Floats, scale: float) -> float:
    _, said_sums, label_sums = _binned(said, label, scale)
    return float(np.abs(said_sums - label_sums).sum() / said.size)


def _binned(said: Floats, label: Floats, scale: float) -> tuple[Floats, Floats, Floats]:
    said, label = said.ravel(), label.ravel()
    index = np.clip((said / scale * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    counts, said_sums, label_sums = (
        np.bincount(index, weights, NUM_BINS).astype(np.float64) for weights in (None, said, label)
    )
    return counts, said_sums, label_sums
