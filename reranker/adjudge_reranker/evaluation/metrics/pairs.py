"""What a critic's comparisons are worth against labelled preferences.

Labels are 1 where the first candidate is preferred, -1 where the second is, 0 for a tie.
"""

from dataclasses import dataclass

import numpy as np

from adjudge_reranker.evaluation.metrics import estimates
from adjudge_reranker.evaluation.metrics.calibration import Calibration, calibration
from adjudge_reranker.evaluation.metrics.estimates import Bools, Estimate, taken
from adjudge_reranker.evaluation.metrics.resampling import Floats, Integers

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class PairArrays:
    """Answered pairs and their readings; every array has one row a pair."""

    label: Integers
    """(n,), in {1, 0, -1}."""
    margin: Floats
    """(n,), nats."""
    preference: Floats
    """(n,), in [0, 1]."""
    probabilities: Floats
    """(n, 3): of first, second and tie; a row of NaN where they were not given."""
    position_bias: Floats
    """(n,), nats; NaN where it was not given."""
    cluster: Integers
    """(n,), equal for pairs that belong together."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a number is distributed."""

    mean: Estimate
    standard_deviation: float | None
    """Of the sample (n - 1); None for fewer than two."""
    quantiles: tuple[tuple[float, float], ...]
    """(level, value); empty if there are no values."""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """All figures of pairs. Each `n` says how many of the answered pairs it is over."""

    accuracy: Estimate
    three_way_accuracy: Estimate
    order_consistency: Estimate
    ties_called_ties: Estimate
    preference_calibration: Calibration
    position_bias: Spread
    """Nats."""


def pair_figures(pairs: PairArrays) -> PairFigures:
    """All figures of pairs."""
    label, margin, bias, cluster = pairs.label, pairs.margin, pairs.position_bias, pairs.cluster
    given = ~np.isnan(bias)
    return PairFigures(
        accuracy=accuracy(label, margin, cluster),
        three_way_accuracy=three_way_accuracy(label, pairs.probabilities, cluster),
        order_consistency=order_consistency(label, margin, bias, cluster),
        ties_called_ties=ties_called_ties(label, pairs.probabilities, cluster),
        preference_calibration=preference_calibration(label, pairs.preference, cluster),
        position_bias=spread(bias[given], cluster[given]),
    )


def right(label: Integers, margin: Floats) -> Bools:
    """Whether the sign of each margin (nats) agrees with its label. A margin of exactly 0 favours
    neither candidate and agrees with no preference. Shapes (n,)."""
    return np.asarray(np.sign(margin) == label)


def accuracy(label: Integers, margin: Floats, cluster: Integers | None = None) -> Estimate:
    """Pairwise accuracy: pairs labelled ties are left out, the sign of the margin decides."""
    decided = label != 0
    return estimates.share(right(label[decided], margin[decided]), taken(cluster, decided))


def verdicts(probabilities: Floats) -> Integers:
    """The most probable of first (1), second (-1) and tie (0), from an array of shape (n, 3).

    A tie where first and second are equal, or where it is as probable as the better of them, so
    that swapping the candidates negates the verdict.
    """
    first, second, tie = probabilities.T
    verdict: Integers = np.sign(first - second).astype(np.int64)
    verdict[tie >= np.maximum(first, second)] = 0
    return verdict


def three_way_accuracy(
    label: Integers, probabilities: Floats, cluster: Integers | None = None
) -> Estimate:
    """The share of pairs, ties among them, whose most probable verdict is the label. The
    probabilities (n, 3) are averaged over both orders before the verdict is taken."""
    given = np.asarray(~np.isnan(probabilities).any(axis=1))
    return estimates.share(verdicts(probabilities[given]) == label[given], taken(cluster, given))


def ties_called_ties(
    label: Integers, probabilities: Floats, cluster: Integers | None = None
) -> Estimate:
    """Of the pairs labelled ties, the share whose most probable verdict is a tie."""
    ties = label == 0
    return three_way_accuracy(label[ties], probabilities[ties], taken(cluster, ties))


def order_consistency(
    label: Integers, margin: Floats, position_bias: Floats, cluster: Integers | None = None
) -> Estimate:
    """The share of pairs whose two orders favour the same candidate; labelled ties are left out.

    With M the margin and b the position bias, both in nats and of shape (n,), the order as given
    has the margin b + M and the swapped one b - M. They name the same candidate if b + M and M - b
    have one sign, which is |b| < |M|; two exact zeros agree as well.
    """
    counted = (label != 0) & ~np.isnan(position_bias)
    margin, position_bias = margin[counted], position_bias[counted]
    agree = np.sign(margin + position_bias) == np.sign(margin - position_bias)
    return estimates.share(agree, taken(cluster, counted))


def preference_calibration(
    label: Integers, preference: Floats, cluster: Integers | None = None
) -> Calibration:
    """Of the preference P(first) + P(tie) / 2 against what happened: 1 where the label says first,
    0 where second, 1/2 for a tie.

    Every pair counts in both orders, as (p, y) and (1 - p, 1 - y), so that the error does not
    depend on which candidate a file puts first. Its `n` counts pairs, the bins count both orders.
    """
    outcome = (label + 1) / 2
    both = np.stack([preference, 1 - preference])
    return calibration(both, np.stack([outcome, 1 - outcome]), scale=1.0, cluster=cluster)


def spread(values: Floats, cluster: Integers | None = None) -> Spread:
    """Of an array of shape (n,), in its units."""
    enough = values.size > 1
    levels = np.quantile(values, QUANTILES) if values.size else ()
    return Spread(
        mean=estimates.mean(values, cluster),
        standard_deviation=float(values.std(ddof=1)) if enough else None,
        quantiles=tuple(zip(QUANTILES, map(float, levels), strict=bool(values.size))),
    )
