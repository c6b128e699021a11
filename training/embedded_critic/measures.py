"""Figures about judgements whose truth is known: pure functions of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from embedded_critic.judging import Comparison

BINS = 10
Summary = dict[str, float | int]


def share(flags: ArrayLike) -> float:
    return float(np.asarray(flags, float).mean())


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Correlation of ranks; equals share their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Sequence[float]) -> list[float]:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means = last - (counts - 1) / 2
    ranks: list[float] = means[inverse].tolist()
    return ranks


def calibration_error(said: ArrayLike, was: ArrayLike, *, scale: float = 1.0) -> float:
    """Expected calibration error: mean |said - was| over ten equal bins of what was said.

    Each bin weighs by its count (Guo et al. 2017, arXiv:1706.04599, with expected outcomes in the
    place of accuracies). Both in [0, scale], and so is the result.
    """
    said, was = np.asarray(said, float), np.asarray(was, float)
    bins = np.minimum((said / scale * BINS).astype(int), BINS - 1)
    gaps = [abs(said[bins == b].sum() - was[bins == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(said))


@dataclass(slots=True)
class Scored:
    """Responses with the rubric's score and the critic's."""

    expected: list[float] = field(default_factory=list)
    scored: list[float] = field(default_factory=list)

    def summary(self) -> Summary:
        return {
            "n": len(self.scored),
            "pearson": pearson(self.expected, self.scored),
            "spearman": spearman(self.expected, self.scored),
            "mean_absolute_error": float(np.mean(np.abs(np.subtract(self.expected, self.scored)))),
            "calibration_error": calibration_error(self.scored, self.expected, scale=100),
        }


@dataclass(slots=True)
class Compared:
    """Pairs, the rubric's difference (first less second, 0 for a tie) and the critic's reading."""

    differences: list[int] = field(default_factory=list)
    readings: list[Comparison] = field(default_factory=list)

    def add(self, differences: Sequence[int], readings: Sequence[Comparison]) -> None:
        self.differences += differences
        self.readings += readings

    def decided(self) -> Summary:
        """Of pairs that are no ties: does the sign of the margin say which is better?"""
        chosen = [
            (1 if d > 0 else -1, r)
            for d, r in zip(self.differences, self.readings, strict=True)
            if d
        ]
        given = np.array([sign * r.given_order for sign, r in chosen])
        swapped = np.array([sign * r.swapped_order for sign, r in chosen])
        return {
            "n": len(chosen),
            "accuracy": share((given + swapped) > 0),
            "accuracy_one_order": share(np.concatenate([given, swapped]) > 0),
            "order_consistent": share((given > 0) == (swapped > 0)),
        }

    def three_way(self) -> Summary:
        """Of all pairs: is the most probable verdict, ties among them, the right one?"""
        truth = np.sign(self.differences)
        said = np.array([verdict(r) for r in self.readings])
        ties = truth == 0
        return {
            "n": len(truth),
            "accuracy": share(said == truth),
            "ties": share(ties),
            "ties_called_ties": share(said[ties] == 0),
            "unequal_called_ties": share(said[~ties] == 0),
        }

    def calibration(self) -> Summary:
        """Of the preference, which expects 1 where the first is better, 1/2 where none is.

        Averaged over both orders it says 1 - p of the swapped pair, so both are counted.
        """
        said = np.array([r.preference for r in self.readings])
        was = (np.sign(self.differences) + 1) / 2
        bias = np.array([(r.given_order - r.swapped_order) / 2 for r in self.readings])
        return {
            "n": len(said),
            "calibration_error": calibration_error(
                np.concatenate([said, 1 - said]), np.concatenate([was, 1 - was])
            ),
            "position_bias_mean": float(bias.mean()),
            "position_bias_sd": float(bias.std()),
            "flipped": share([r.given_order * r.swapped_order < 0 for r in self.readings]),
        }


def verdict(reading: Comparison) -> int:
    """1 for the first, -1 for the second, 0 for a tie: the most probable one.

    Where two are equally probable it is a tie, so that swapping a pair swaps its verdict.
    """
    first = reading.preference - reading.tie / 2
    second = 1 - first - reading.tie
    if reading.tie >= max(first, second) or first == second:
        return 0
    return 1 if first > second else -1
