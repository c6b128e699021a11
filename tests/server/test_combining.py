"""The maths of ensembles, without a server: what holds of any rewards, weights and penalties."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adjudge_server.combining import Combination, Rule, Spread, combine, reward_range

CLOSE = {"rel": 1e-9, "abs": 1e-7}
"""Rewards here are at most 1000 in size, penalties 10."""
patient = settings(deadline=None)
rewards_ = st.floats(-1000, 1000)
weights_ = st.floats(0.01, 100)


@st.composite
def rules(draw: st.DrawFn, size: int, *combinations: Combination) -> Rule:
    combination = draw(st.sampled_from(combinations or tuple(Combination)))
    has_weights = combination is not Combination.MINIMUM
    weights = (
        draw(st.lists(weights_, min_size=size, max_size=size)) if has_weights else [1.0] * size
    )
    penalty = draw(st.floats(0, 10))
    return Rule(combination, tuple(weights), penalty, draw(st.sampled_from(Spread)))


@st.composite
def asked(draw: st.DrawFn, *combinations: Combination) -> tuple[Rule, list[float]]:
    """A rule, and a reward for each of its members."""
    size = draw(st.integers(2, 6))
    rewards = draw(st.lists(rewards_, min_size=size, max_size=size))
    return draw(rules(size, *combinations)), rewards


def close(value: float) -> object:
    return pytest.approx(value, **CLOSE)


def weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(map(math.prod, zip(values, weights, strict=True))) / math.fsum(weights)


@patient
@given(asked())
def test_it_is_what_its_definition_says_computed_in_another_way(
    given_: tuple[Rule, list[float]],
) -> None:
    rule, rewards = given_
    found = combine(rule, rewards)
    mean = weighted(rewards, rule.weights)
    variance = weighted([(reward - mean) ** 2 for reward in rewards], rule.weights)
    assert found.spread == pytest.approx(math.sqrt(variance), rel=1e-6, abs=1e-6)
    match rule.combination:
        case Combination.WEIGHTED:
            assert found.reward == close(mean)
        case Combination.MINIMUM:
            assert found.reward == min(rewards)
        case Combination.SPREAD_PENALISED:
            is_variance = rule.spread is Spread.VARIANCE
            taken_off = variance if is_variance else math.sqrt(variance)
            wanted = mean - rule.penalty * taken_off
            assert found.reward == pytest.approx(wanted, rel=1e-6, abs=1e-5)


def test_the_published_objectives_are_special_cases() -> None:
    """Mean, WCO and UWO of arXiv 2310.02743, of three rewards by hand."""
    rewards, equal = [1.0, 2.0, 6.0], (1.0, 1.0, 1.0)
    assert combine(Rule(Combination.WEIGHTED, equal), rewards).reward == 3.0
    assert combine(Rule(Combination.MINIMUM, equal), rewards).reward == 1.0
    uwo = Rule(Combination.SPREAD_PENALISED, equal, 0.5, Spread.VARIANCE)
    assert combine(uwo, rewards).reward == pytest.approx(3.0 - 0.5 * 14 / 3)
    deviation = replace(uwo, spread=Spread.STANDARD_DEVIATION)
    assert combine(deviation, rewards).reward == pytest.approx(3.0 - 0.5 * (14 / 3) ** 0.5)


@patient
@given(asked(), st.randoms())
def test_the_order_of_the_members_does_not_matter(
    given_: tuple[Rule, list[float]], random: "np.random.Generator"
) -> None:
    rule, rewards = given_
    order = list(range(len(rewards)))
    random.shuffle(order)
    moved = replace(rule, weights=tuple(rule.weights[i] for i in order))
    found, again = combine(rule, rewards), combine(moved, [rewards[i] for i in order])
    assert again.reward == pytest.approx(found.reward, rel=1e-6, abs=1e-5)
    assert again.spread == pytest.approx(found.spread, rel=1e-6, abs=1e-6)


@patient
@given(asked(), rewards_)
def test_members_that_agree_are_what_each_of_them_says(
    given_: tuple[Rule, list[float]], reward: float
) -> None:
    rule, rewards = given_
    found = combine(rule, [reward] * len(rewards))
    assert (found.reward, found.spread) == (reward, 0.0)


@patient
@given(asked(), st.floats(-100, 100))
def test_a_constant_on_all_members_is_a_constant_on_the_result(
    given_: tuple[Rule, list[float]], shift: float
) -> None:
    rule, rewards = given_
    moved = combine(rule, [reward + shift for reward in rewards])
    wanted = combine(rule, rewards).reward + shift
    assert moved.reward == pytest.approx(wanted, rel=1e-6, abs=1e-4)


@patient
@given(asked(Combination.WEIGHTED, Combination.MINIMUM), st.data(), st.floats(0, 100))
def test_mean_and_minimum_never_fall_when_a_member_gives_more(
    given_: tuple[Rule, list[float]], data: st.DataObject, more: float
) -> None:
    rule, rewards = given_
    raised = list(rewards)
    raised[data.draw(st.integers(0, len(rewards) - 1))] += more
    assert combine(rule, raised).reward >= combine(rule, rewards).reward - 1e-9


def test_a_penalised_mean_may_fall_when_a_member_gives_more() -> None:
    rule = Rule(Combination.SPREAD_PENALISED, (1.0, 1.0), 2.0)
    assert combine(rule, [1.0, 5.0]).reward < combine(rule, [1.0, 1.0]).reward


@patient
@given(asked(Combination.SPREAD_PENALISED))
def test_a_penalty_takes_off_and_none_takes_off_nothing(
    given_: tuple[Rule, list[float]],
) -> None:
    rule, rewards = given_
    mean = combine(replace(rule, combination=Combination.WEIGHTED), rewards).reward
    assert combine(rule, rewards).reward <= mean
    assert combine(replace(rule, penalty=0.0), rewards).reward == mean


@patient
@given(asked(Combination.WEIGHTED, Combination.SPREAD_PENALISED), st.floats(0.01, 100))
def test_only_the_ratio_of_weights_counts(given_: tuple[Rule, list[float]], factor: float) -> None:
    rule, rewards = given_
    scaled = replace(rule, weights=tuple(weight * factor for weight in rule.weights))
    wanted = combine(rule, rewards).reward
    assert combine(scaled, rewards).reward == pytest.approx(wanted, rel=1e-6, abs=1e-5)


@patient
@given(st.data())
def test_rewards_within_their_ranges_combine_to_one_within_the_range(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 5))
    rule = data.draw(rules(size))
    pairs = [sorted(data.draw(st.tuples(rewards_, rewards_))) for _ in range(size)]
    ranges = [(low + 0.0, high + 0.0) for low, high in pairs]  # of the two zeros, one
    rewards = [data.draw(st.floats(low, high)) for low, high in ranges]
    bounds = reward_range(rule, ranges)
    assert bounds is not None
    low, high = bounds
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert low - slack <= combine(rule, rewards).reward <= high + slack


@patient
@given(st.data())
def test_the_lower_bound_is_reached_at_an_end_of_each_range(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 4))
    rule = data.draw(rules(size))
    ranges = [(0.0, data.draw(st.floats(0, 1000))) for _ in range(size)]
    bounds = reward_range(rule, ranges)
    assert bounds is not None
    corners = [
        combine(rule, [ends[number >> i & 1] for i, ends in enumerate(ranges)]).reward
        for number in range(2**size)
    ]
    assert min(corners) == pytest.approx(bounds[0], rel=1e-9, abs=1e-6)


@patient
@given(asked())
def test_without_the_range_of_one_member_there_is_none(given_: tuple[Rule, list[float]]) -> None:
    rule, rewards = given_
    assert reward_range(rule, [None, *[(0.0, 1.0)] * (len(rewards) - 1)]) is None


@pytest.mark.parametrize("combination", list(Combination))
def test_what_overflows_is_not_finite_and_no_number(combination: Combination) -> None:
    rule = Rule(combination, (1.0, 1.0), 1.0)
    found = combine(rule, [1e308, -1e308])
    assert not (math.isfinite(found.reward) and math.isfinite(found.spread))
    if combination is Combination.SPREAD_PENALISED:
        assert reward_range(rule, [(-1e308, 1e308)] * 2) is None


@patient
@given(st.lists(st.floats(1e-300, 1e300), min_size=2, max_size=5))
def test_any_weights_give_shares_that_sum_to_one(weights: list[float]) -> None:
    assume(max(weights) > 0)
    rule = Rule(Combination.WEIGHTED, tuple(weights))
    found = combine(rule, [7.0] * len(weights))
    assert found.reward == 7.0
