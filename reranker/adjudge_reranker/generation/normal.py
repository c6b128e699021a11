"""The chance that the rest of a sample has a new best value, if the values are normal."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_NUM_MEANS = 20
_NUM_SCALES = 64
# Nodes: with these the error is below 1e-4, and a probability takes about 0.1 ms.


def rank_chance(num_seen: int, num_left: int) -> float:
    """The probability that the best of all is among those left: m / (n + m).

    Exact for values in random order without ties, whatever their distribution; with ties it is a
    bound on that of a strictly better one. `num_seen` is at least 1.
    """
    return num_left / (num_seen + num_left)


def normal_chance(values: Sequence[float], num_left: int) -> float:
    """The probability that one of `num_left` more values exceeds the highest of `values`.

    For independent normal values of unknown mean and variance. With n values of mean x, standard
    deviation s and maximum M it is

        1 - E[ Phi(W (M - x) / s - Z / sqrt n)^m ],   (n - 1) W^2 ~ chi2(n - 1),  Z ~ N(0, 1),

    the posterior predictive probability under the prior 1 / sigma. That is the right Haar prior of
    location and scale, so this is also the frequentist probability given everything that does not
    depend on them (Eaton and Sudderth 2004, "Properties of right Haar predictive inference"): it is
    exact for every mean and variance, and stays so when it is looked at after each value, as
    stopping rules do.

    Equal values say nothing about their spread: then, and of one value, it is `rank_chance`.
    `values` are finite, one or more.
    """
    n = len(values)
    array = np.asarray(values, dtype=np.float64)
    # Scaled first: squares of rewards near the ends of floating point would be 0 or infinite.
    unit = float(np.max(np.abs(array))) or 1.0
    array = array / unit
    spread = float(np.std(array, ddof=1)) if n > 1 else 0.0
    if spread <= 1e-12:
        return rank_chance(n, num_left)
    if num_left == 0:
        return 0.0
    lead = (float(np.max(array)) - float(np.mean(array))) / spread
    scales, scale_weights = _scales(n - 1)
    means, mean_weights = _means()
    heights = lead * scales[:, None] - means[None, :] / math.sqrt(n)  # (scales, means)
    below = _cumulative(heights) ** num_left
    return float(np.clip(1 - scale_weights @ below @ mean_weights, 0.0, 1.0))


def _cumulative(values: Floats) -> Floats:
    """Phi to 1e-7, by Abramowitz and Stegun 1964, 7.1.26: numpy has no error function."""
    x = np.abs(values) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    factors = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0)
    tail = 0.5 * np.polyval(factors, t) * np.exp(-x * x)
    return np.asarray(np.where(values < 0, tail, 1 - tail), dtype=np.float64)


@lru_cache(maxsize=1)
def _means() -> tuple[Floats, Floats]:
    """Nodes and weights for N(0, 1): Gauss and Hermite's."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_MEANS)
    return nodes, weights / weights.sum()


@lru_cache(maxsize=256)
def _scales(freedom: int) -> tuple[Floats, Floats]:
    """Nodes and weights for sqrt(chi2(freedom) / freedom), by the trapezoidal rule in log chi2,
    where the density is smooth and falls off fast on both sides."""
    deviation = math.sqrt(2 / freedom)
    centre = math.log(freedom)
    left, right = max(8 * deviation, 40 / freedom), 8 * deviation
    logs = np.linspace(centre - left, centre + right, _NUM_SCALES)
    density = freedom / 2 * (logs - centre) - (np.exp(logs) - freedom) / 2
    weights = np.exp(density - density.max())
    return np.sqrt(np.exp(logs) / freedom), weights / weights.sum()
