"""The figures, against cases worked out by hand."""

import numpy as np
import pytest

from embedded_critic.judging import Comparison
from embedded_critic.measures import Compared, calibration_error, spearman, verdict


def reading(first: float, tie: float, bias: float = 0.0) -> Comparison:
    second = 1 - first - tie
    margin = float(np.log(first / second))
    return Comparison(margin, margin + bias, margin - bias, tie, first + tie / 2)


def test_calibration_error_by_hand() -> None:
    # 0.9 was right one time in two, 0.2 never: (2 * |0.9 - 0.5| + 2 * 0.2) / 4
    assert calibration_error([0.9, 0.9, 0.2, 0.2], [1, 0, 0, 0]) == pytest.approx(0.3)
    assert calibration_error([90, 20], [90, 20], scale=100) == 0
    assert calibration_error([1.0], [1.0]) == 0  # the last bin is closed


def test_a_calibrated_forecast_has_a_small_error_and_an_overconfident_one_a_large_one() -> None:
    rng = np.random.default_rng(1)
    said = rng.random(20000)
    was = rng.random(20000) < said
    assert calibration_error(said, was) < 0.02
    sharper = np.clip(0.5 + 2 * (said - 0.5), 0, 1)
    assert calibration_error(sharper, was) > 0.1


def test_three_way_counts_ties_as_a_verdict() -> None:
    compared = Compared()
    compared.add([20, 0, 0, -20], [reading(0.8, 0.1), reading(0.2, 0.7), reading(0.6, 0.3),
                                   reading(0.1, 0.8)])  # fmt: skip
    three = compared.three_way()
    assert three["accuracy"] == 0.5
    assert three["ties_called_ties"] == 0.5
    assert three["unequal_called_ties"] == 0.5


def test_a_flipped_verdict_is_no_consistent_one() -> None:
    compared = Compared()
    compared.add([20, -20, 0], [reading(0.6, 0.1, bias=3), reading(0.2, 0.1), reading(0.3, 0.3)])
    decided = compared.decided()
    assert decided["n"] == 2
    assert decided["accuracy"] == 1
    assert decided["order_consistent"] == 0.5
    assert decided["accuracy_one_order"] == 0.75
    assert compared.calibration()["flipped"] == pytest.approx(1 / 3)


def test_equal_probabilities_are_a_verdict_and_ties_share_ranks() -> None:
    assert verdict(reading(0.5, 0.2)) == 1
    assert verdict(reading(0.1, 0.6)) == 0
    assert verdict(reading(0.1, 0.2)) == -1
    assert verdict(reading(0.375, 0.25)) == 0  # neither first nor second
    assert verdict(reading(0.5, 0.5 - 2**-20)) == 1
    assert spearman([1, 2, 2, 3], [10, 20, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
