"""What a critic's rewards are worth: against labelled scores, and as a choice among candidates."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from adjudge_reranker.evaluation.metrics import estimates
from adjudge_reranker.evaluation.metrics.calibration import Calibration, calibration
from adjudge_reranker.evaluation.metrics.estimates import Estimate
from adjudge_reranker.evaluation.metrics.resampling import Floats, Integers

SCALE: Final = 100.0
"""Labels are in [0, 100]."""


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """All figures of labelled scores."""

    pearson: Estimate
    spearman: Estimate
    mean_absolute_error: Estimate | None
    """Points of 100; None if the rewards' range is not known, so that they cannot be put on the
    labels' scale."""
    reward_calibration: Calibration | None
    """Points of 100; None likewise."""


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """All figures of groups."""

    best_is_chosen: Estimate


def score_figures(
    label: Floats,
    reward: Floats,
    reward_range: tuple[float, float] | None,
    cluster: Integers | None = None,
) -> ScoreFigures:
    """Labels in [0, 100] against expected rewards, both of shape (n,), as is `cluster`.

    `reward_range` is the least and the greatest reward; for the error and the calibration, rewards
    are put on the labels' scale by it, linearly.
    """
    error, calibrated = None, None
    if reward_range is not None:
        low, high = reward_range
        points = SCALE * (reward - low) / (high - low)
        error = estimates.mean(np.abs(points - label), cluster)
        calibrated = calibration(points, label, scale=SCALE, cluster=cluster)
    return ScoreFigures(
        pearson=estimates.pearson(label, reward, cluster),
        spearman=estimates.spearman(label, reward, cluster),
        mean_absolute_error=error,
        reward_calibration=calibrated,
    )


def best_is_chosen(chosen: Floats, rejected: Floats) -> float:
    """The probability that a chosen candidate is picked, if one of those with the highest reward is
    picked at random; in [0, 1]. Shapes (c,) and (r,), neither empty.

    With one chosen candidate it is RewardBench 2's result outside Ties: 1 / (number of candidates
    that share the maximum) if the chosen one is among them, and else 0.
    """
    best = max(chosen.max(), rejected.max())
    num_chosen = int((chosen == best).sum())
    return num_chosen / (num_chosen + int((rejected == best).sum()))


def group_figures(credits: Floats, cluster: Integers | None = None) -> GroupFigures:
    """From what `best_is_chosen` gives for each of n groups, shape (n,)."""
    return GroupFigures(estimates.mean(credits, cluster))
