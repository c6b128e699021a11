"""Strengths are those that the model says, exist whatever the preferences, and invent nothing."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from adjudge_reranker import fit_bradley_terry

SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))

preferences = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def round_robins(draw):
    num = draw(st.integers(2, 8))
    pairs = list(combinations(range(num), 2))
    return num, pairs, [draw(preferences) for _ in pairs]


@st.composite
def incomplete(draw):
    num = draw(st.integers(2, 8))
    pairs = draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1)), max_size=20))
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    given = preferences | st.sampled_from([None, math.nan])
    return num, pairs, [draw(given) for _ in pairs]


@given(preference=preferences, prior=st.floats(1e-3, 1))
def test_two_candidates_have_the_closed_form(preference: float, prior: float) -> None:
    fit = fit_bradley_terry(2, [(0, 1)], [preference], prior=prior)
    share = (preference + prior / 2) / (1 + prior)
    weight = (1 + prior) * share * (1 - share)
    difference = fit.difference(0, 1)
    assert difference is not None
    assert difference.nats == pytest.approx(math.log(share / (1 - share)), abs=1e-7)
    assert difference.standard_error == pytest.approx(1 / math.sqrt(weight))
    assert fit.standard_error(0) == pytest.approx(0.5 / math.sqrt(weight))


@given(preference=preferences)
def test_a_prior_of_one_comparison_is_firths_correction_of_two_candidates(preference) -> None:
    fit = fit_bradley_terry(2, [(0, 1)], [preference], prior=1.0)
    expected = math.log((preference + 0.5) / (1.5 - preference))
    assert fit.strengths[0] - fit.strengths[1] == pytest.approx(expected, abs=1e-7)


@given(case=incomplete())
def test_strengths_are_finite_and_have_mean_0_whatever_is_missing(case) -> None:
    fit = fit_bradley_terry(*case)
    assert np.isfinite(fit.strengths).all() and np.isfinite(fit.covariance).all()
    assert sum(fit.strengths) == pytest.approx(0.0, abs=1e-9)
    assert np.abs(np.sum(fit.covariance or [[0.0]], axis=1)).max() < 1e-6


@given(case=round_robins())
def test_the_fit_is_where_expected_wins_equal_those_observed(case) -> None:
    num, pairs, given = case
    fit = fit_bradley_terry(num, pairs, given)
    surplus = np.zeros(num)
    for (i, j), preference in zip(pairs, given, strict=True):
        observed = preference + 0.05
        expected = 1.1 / (1 + math.exp(fit.strengths[j] - fit.strengths[i]))
        surplus[i] += observed - expected
        surplus[j] -= observed - expected
    assert np.abs(surplus).max() < 1e-6


def test_an_independent_optimiser_finds_the_same_strengths_and_covariance() -> None:
    rng = np.random.default_rng(5)
    pairs = [(i, j) for i, j in combinations(range(6), 2) if (i, j) != (0, 5)]
    given = rng.random(len(pairs))
    fit = fit_bradley_terry(6, pairs, given.tolist())
    first, second = np.array(pairs).T

    def minus_likelihood(free):
        strengths = np.append(free, -free.sum())
        margin = strengths[first] - strengths[second]
        up, down = given + 0.05, 1.05 - given
        return (up * np.logaddexp(0, -margin) + down * np.logaddexp(0, margin)).sum()

    found = minimize(minus_likelihood, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).x
    assert fit.strengths[:5] == pytest.approx(found, abs=1e-5)
    h, unit = 1e-3, np.eye(5)
    curvature = np.array(
        [
            [
                sum(a * b * minus_likelihood(found + h * (a * u + b * v)) for a, b in SIGNS)
                for v in unit
            ]
            for u in unit
        ]
    ) / (4 * h * h)
    assert np.array(fit.covariance)[:5, :5] == pytest.approx(np.linalg.inv(curvature), abs=1e-4)


@given(case=incomplete(), data=st.data())
def test_neither_the_order_of_comparisons_nor_the_side_of_a_candidate_matters(case, data) -> None:
    num, pairs, given = case
    order = data.draw(st.permutations(range(len(pairs))))
    turned = [(pairs[k][1], pairs[k][0]) for k in order]
    opposite = [None if given[k] is None else 1 - given[k] for k in order]
    there, back = fit_bradley_terry(num, pairs, given), fit_bradley_terry(num, turned, opposite)
    assert there.connected == back.connected
    assert there.strengths == pytest.approx(back.strengths, abs=1e-6)


@given(case=round_robins(), data=st.data())
def test_renaming_candidates_renames_strengths(case, data) -> None:
    num, pairs, given = case
    name = data.draw(st.permutations(range(num)))
    there = fit_bradley_terry(num, pairs, given)
    back = fit_bradley_terry(num, [(name[i], name[j]) for i, j in pairs], given)
    assert [back.strength(name[i]) for i in range(num)] == pytest.approx(there.strengths, abs=1e-6)


def test_true_strengths_are_recovered_from_their_own_probabilities() -> None:
    truth = np.array([2.0, 0.5, -0.5, -2.0])
    pairs = list(combinations(range(4), 2)) * 50
    given = [1 / (1 + math.exp(truth[j] - truth[i])) for i, j in pairs]
    fit = fit_bradley_terry(4, pairs, given, prior=1e-6)
    assert fit.strengths == pytest.approx(truth, abs=1e-3)


def test_who_wins_everything_is_strongest_and_not_infinitely_so() -> None:
    pairs = list(combinations(range(5), 2))
    fit = fit_bradley_terry(5, pairs, [1.0] * len(pairs))
    assert sorted(fit.strengths, reverse=True) == list(fit.strengths)
    assert 2.0 < fit.strengths[0] < 20.0


def test_more_comparisons_make_standard_errors_smaller() -> None:
    once = fit_bradley_terry(2, [(0, 1)], [0.7]).standard_error(0)
    often = fit_bradley_terry(2, [(0, 1)] * 100, [0.7] * 100).standard_error(0)
    assert once is not None and often is not None
    assert often == pytest.approx(once / 10, rel=0.1)


def test_candidates_that_nothing_connects_have_no_strength() -> None:
    pairs = [(0, 1), (2, 3), (3, 4), (0, 4)]
    fit = fit_bradley_terry(6, pairs, [0.9, 0.6, 0.6, None])
    assert fit.connected == (2, 3, 4)
    assert fit.strength(0) is None and fit.standard_error(5) is None
    assert fit.difference(0, 2) is None
    assert fit_bradley_terry(3, [(0, 1)], [None]).connected == ()


@pytest.mark.parametrize(
    ("pairs", "given", "prior"),
    [
        ([(0, 0)], [0.5], 0.1),
        ([(0, 2)], [0.5], 0.1),
        ([(-1, 0)], [0.5], 0.1),
        ([(0, 1)], [1.5], 0.1),
        ([(0, 1)], [math.inf], 0.1),
        ([(0, 1)], [0.5, 0.5], 0.1),
        ([(0, 1)], [0.5], 0.0),
        ([(0, 1)], [0.5], math.nan),
    ],
)
def test_what_is_no_comparison_is_refused(pairs, given, prior: float) -> None:
    with pytest.raises(ValueError):
        fit_bradley_terry(2, pairs, given, prior=prior)


@given(
    size=st.integers(2, 24),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0, 30),
    prior=st.sampled_from([1e-3, 0.1]),
)
def test_the_covariance_is_the_pseudo_inverse_also_where_the_critic_is_sure(
    size: int, seed: int, spread: float, prior: float
) -> None:
    """A general pseudo-inverse took the singular direction for a real one now and then, and gave
    variances that were huge, or below 0."""
    values = spread * np.random.default_rng(seed).normal(size=size)
    pairs = list(combinations(range(size), 2))
    chances = [float(1 / (1 + np.exp(values[j] - values[i]))) for i, j in pairs]
    fit = fit_bradley_terry(size, pairs, chances, prior=prior)
    information = np.zeros((size, size))
    for i, j in pairs:
        share = 1 / (1 + math.exp(fit.strengths[j] - fit.strengths[i]))
        information[[i, j, i, j], [i, j, j, i]] += (
            (1 + prior) * share * (1 - share) * np.array([1, 1, -1, -1])
        )
    covariance = np.array(fit.covariance)
    centre = np.eye(size) - 1 / size
    assert information @ covariance == pytest.approx(centre, abs=1e-6)
    assert covariance == pytest.approx(covariance.T)
    errors = [fit.standard_error(index) for index in range(size)]
    assert all(error is not None and math.isfinite(error) and error > 0 for error in errors)
