"""Figures against what a hand or a slower program computes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_reranker.evaluation.metrics import estimates, pairs, scores
from adjudge_reranker.evaluation.metrics.calibration import calibration
from adjudge_reranker.evaluation.metrics.estimates import Method

SHARES = st.lists(st.booleans(), min_size=1, max_size=60)
PROBABILITY = st.floats(0, 1)
LABELS = st.sampled_from([1, 0, -1])


few = settings(max_examples=20, deadline=None)
"""For what is bootstrapped."""


def floats(*values: float) -> np.ndarray:
    return np.array(values, float)


def labels(*values: int) -> np.ndarray:
    return np.array(values, int)


@given(SHARES)
def test_a_share_has_wilsons_interval(right: list[bool]) -> None:
    n, p, z = len(right), sum(right) / len(right), 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = estimates.share(np.array(right))
    assert (found.value, found.n, found.method) == (pytest.approx(p), n, Method.WILSON)
    assert found.interval == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_nothing_has_no_value_rather_than_0() -> None:
    nothing = np.array([], float)
    assert estimates.share(np.array([], bool)).value is None
    assert estimates.mean(nothing).value is None
    assert estimates.pearson(nothing, nothing).value is None
    assert calibration(nothing, nothing, scale=1).error.value is None
    assert calibration(nothing, nothing, scale=1).bins == ()
    assert pairs.spread(nothing).quantiles == ()


def test_one_value_has_no_interval() -> None:
    found = estimates.mean(floats(3))
    assert (found.value, found.n, found.interval) == (3, 1, None)
    assert pairs.spread(floats(3)).standard_deviation is None


def test_a_bootstrapped_mean_has_about_the_interval_of_the_normal_law() -> None:
    values = np.random.default_rng(1).normal(5, 2, 900)
    found = estimates.mean(values)
    half = 1.96 * values.std(ddof=1) / 30
    assert found.value == values.mean()
    assert found.interval == pytest.approx((found.value - half, found.value + half), abs=0.02)
    assert estimates.mean(values) == found  # the seed is fixed


def test_pearson_by_hand() -> None:
    x, y = floats(1, 2, 3, 4, 5), floats(2, 1, 4, 3, 5)
    found = estimates.pearson(x, y)
    assert found.value == pytest.approx(0.8)  # covariance 8, both sums of squares 10
    half = 1.959963984540054 / math.sqrt(2)
    expected = (math.tanh(math.atanh(0.8) - half), math.tanh(math.atanh(0.8) + half))
    assert found.interval == pytest.approx(expected)


def test_spearman_shares_the_ranks_of_equal_values() -> None:
    # Ranks 1, 2.5, 2.5, 4, 5 and 1, 2, 3, 4, 5: covariance 9.5, sums of squares 9.5 and 10.
    found = estimates.spearman(floats(0, 7, 7, 8, 100), floats(1, 2, 3, 4, 5))
    r = 9.5 / math.sqrt(9.5 * 10)
    half = 1.959963984540054 * math.sqrt((1 + r * r / 2) / 2)
    assert found.value == pytest.approx(r)
    expected = (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))
    assert found.interval == pytest.approx(expected)


def test_spearman_knows_only_the_order() -> None:
    x = np.random.default_rng(2).uniform(size=50)
    assert estimates.spearman(x, np.exp(9 * x)).value == pytest.approx(1)
    assert estimates.pearson(x, np.exp(9 * x)).value < 0.9


@pytest.mark.parametrize("constant", [floats(5, 5, 5, 5), floats(0.1, 0.1, 0.1, 0.1 + 1e-17)])
@pytest.mark.parametrize("correlation", [estimates.pearson, estimates.spearman])
def test_a_correlation_with_something_constant_is_not_defined(correlation, constant) -> None:
    found = correlation(constant, floats(1, 2, 3, 4))
    assert (found.value, found.n, found.interval) == (None, 4, None)


def test_accuracy_leaves_labelled_ties_out_and_a_margin_of_0_is_not_right() -> None:
    found = pairs.accuracy(labels(1, -1, 1, 1, 0), floats(2.0, -0.1, -3.0, 0.0, 5.0))
    assert (found.value, found.n) == (0.5, 4)


@pytest.mark.parametrize(
    ("probabilities", "verdict"),
    [
        ((0.5, 0.3, 0.2), 1),
        ((0.3, 0.5, 0.2), -1),
        ((0.3, 0.3, 0.4), 0),
        ((0.4, 0.4, 0.2), 0),  # neither is more probable
        ((0.4, 0.2, 0.4), 0),
    ],
)
def test_the_verdict_is_the_most_probable(probabilities, verdict) -> None:
    assert pairs.verdicts(np.array([probabilities])) == [verdict]


@given(st.lists(st.tuples(PROBABILITY, PROBABILITY, PROBABILITY), min_size=1))
def test_swapping_the_candidates_negates_every_verdict(rows) -> None:
    probabilities = np.array(rows)
    assert (pairs.verdicts(probabilities[:, [1, 0, 2]]) == -pairs.verdicts(probabilities)).all()


def test_three_ways_and_ties_by_hand() -> None:
    probabilities = np.array(
        [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [np.nan] * 3]
    )
    label = labels(1, 1, 0, 0, 0)
    assert pairs.three_way_accuracy(label, probabilities).value == 0.5
    assert pairs.three_way_accuracy(label, probabilities).n == 4  # one was not given
    ties = pairs.ties_called_ties(label, probabilities)
    assert (ties.value, ties.n) == (0.5, 2)


def test_order_consistency_by_hand() -> None:
    margin = floats(2.0, 2.0, -1.0, 0.0, 0.0, 1.0, 1.0, 9.0)
    bias = floats(0.5, -3.0, 0.9, 0.0, 0.2, 1.0, np.nan, 0.0)
    label = labels(1, 1, 1, 1, 1, 1, 1, 0)
    # Agree, flip, agree, agree (two zeros), flip, one order undecided, not given, a labelled tie.
    found = pairs.order_consistency(label, margin, bias)
    assert (found.value, found.n) == (0.5, 6)


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1))
def test_order_consistency_is_that_of_the_two_orders_signs(orders) -> None:
    given_order, swapped = np.array(orders).T
    agree = np.sign(given_order) == -np.sign(swapped)
    margin, bias = (given_order - swapped) / 2, (given_order + swapped) / 2
    consistency = pairs.order_consistency(np.ones(len(orders), int), margin, bias)
    # Halving and adding again may round away an order that is all but undecided.
    clear = (np.abs(given_order) > 1e-9) & (np.abs(swapped) > 1e-9)
    if clear.all():
        assert consistency.value == pytest.approx(agree.mean())


def test_calibration_by_hand() -> None:
    said, was = floats(0.05, 0.15, 0.19, 0.95, 1.0), floats(0, 1, 0, 1, 0)
    found = calibration(said, was, scale=1.0)
    # |0.05 - 0| + |0.34 - 1| + |1.95 - 1|, over 5.
    assert found.error.value == pytest.approx((0.05 + 0.66 + 0.95) / 5)
    assert [(b.count, round(b.low, 9), round(b.high, 9)) for b in found.bins] == [
        (1, 0.0, 0.1),
        (2, 0.1, 0.2),
        (2, 0.9, 1.0),
    ]
    assert (found.bins[1].mean_said, found.bins[1].mean_label) == (pytest.approx(0.17), 0.5)


@few
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30))
def test_calibration_is_that_of_a_loop_over_bins(rows) -> None:
    said, was = np.array(rows).T
    total = 0.0
    for b in range(10):
        inside = [(s, w) for s, w in rows if b == min(int(s / 100 * 10), 9)]
        if inside:
            gap = np.mean([s for s, _ in inside]) - np.mean([w for _, w in inside])
            total += len(inside) / len(rows) * abs(gap)
    found = calibration(said, was, scale=100.0)
    assert found.error.value == pytest.approx(total, abs=1e-9)
    assert sum(b.count for b in found.bins) == found.error.n == len(rows)
    assert calibration(said, said, scale=100.0).error.value == 0


def test_preference_counts_a_tie_as_a_half() -> None:
    found = pairs.preference_calibration(labels(0, 0), floats(0.5, 0.5))
    assert (found.error.value, found.error.n) == (0, 2)
    wrong = pairs.preference_calibration(labels(1, -1), floats(0.25, 0.75))
    assert wrong.error.value == pytest.approx(0.75)


@few
@given(st.lists(st.tuples(LABELS, st.integers(0, 20)), min_size=1, max_size=20), st.data())
def test_which_candidate_comes_first_in_the_file_does_not_matter(rows, data) -> None:
    label = np.array([row[0] for row in rows])
    preference = np.array([0.025 + row[1] * 0.0475 for row in rows])  # off the edges of bins
    flips = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    sign = np.where(flips, -1, 1)
    swapped = np.where(flips, 1 - preference, preference)
    one = pairs.preference_calibration(label, preference).error.value
    other = pairs.preference_calibration(label * sign, swapped).error.value
    assert one == pytest.approx(other, abs=1e-9)
    margin = preference - 0.5
    assert pairs.accuracy(label, margin).value == pairs.accuracy(label * sign, margin * sign).value


def test_the_interval_of_a_calibration_error_resamples_pairs_and_holds_it() -> None:
    rng = np.random.default_rng(3)
    preference = rng.uniform(size=400)
    label = np.where(rng.uniform(size=400) < preference**2, 1, -1)
    found = pairs.preference_calibration(label, preference).error
    low, high = found.interval
    assert low < found.value < high and found.n == 400
    assert 0.05 < high - low < 0.3


def test_a_spread_by_hand() -> None:
    found = pairs.spread(floats(0, 1, 2, 3, 4))
    assert (found.mean.value, found.mean.n) == (2, 5)
    assert found.standard_deviation == pytest.approx(math.sqrt(2.5))
    assert dict(found.quantiles) == pytest.approx({0.05: 0.2, 0.25: 1, 0.5: 2, 0.75: 3, 0.95: 3.8})


def test_rewards_are_put_on_the_labels_scale_for_errors_only() -> None:
    label, reward = floats(0, 50, 100, 100), floats(1, 5.5, 10, 5.5)
    found = scores.score_figures(label, reward, (1.0, 10.0))
    assert found.mean_absolute_error.value == pytest.approx(12.5)
    assert found.reward_calibration.error.value == pytest.approx(12.5)
    assert found.pearson == estimates.pearson(label, reward)
    unknown = scores.score_figures(label, reward, None)
    assert unknown.mean_absolute_error is None and unknown.reward_calibration is None
    assert unknown.spearman == found.spearman


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ((5,), (1, 2, 3), 1.0),
        ((1,), (1, 2, 3), 0.0),
        ((3,), (3, 2, 3), 1 / 3),
        ((3, 3), (3, 0), 2 / 3),
        ((9, 1), (8,), 1.0),
    ],
)
def test_the_best_is_chosen_with_the_share_of_those_that_are_best(
    chosen, rejected, expected
) -> None:
    assert scores.best_is_chosen(floats(*chosen), floats(*rejected)) == pytest.approx(expected)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_one_of_the_chosen_or_of_the_rejected_is_best(chosen, rejected) -> None:
    chosen, rejected = floats(*chosen), floats(*rejected)
    forth, back = scores.best_is_chosen(chosen, rejected), scores.best_is_chosen(rejected, chosen)
    assert forth + back == pytest.approx(1)
    assert scores.best_is_chosen(np.exp(chosen), np.exp(rejected)) == pytest.approx(forth)
