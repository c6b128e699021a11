"""From log-probabilities to rewards and margins: what must hold whatever the critic says."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adjudge_server.critic import Reading
from adjudge_server.errors import CriticFailure, OffFormat
from adjudge_server.readout import comparison, reward
from adjudge_server.template_sets import templates_of
from adjudge_server.templates import Kind, Template

POINTWISE, PAIRWISE = templates_of("embedded")
(YES_NO,) = [t for t in templates_of("llava-critic") if t.name == "llava-critic/yes-no"]
(WITHOUT_TIE,) = [t for t in templates_of("r1-reward") if t.kind is Kind.PAIRWISE]
SCORES = np.array(POINTWISE.scores)
Floats = NDArray[np.float64]
quick = settings(deadline=None, max_examples=50)


def read(probabilities: Floats | list[float], opening: float = -0.1) -> Reading:
    return Reading(opening, np.log(np.array(probabilities, np.float64)), 1)


def distributions(size: int) -> st.SearchStrategy[Floats]:
    """Probabilities of answers: flat ones, peaked ones, and some mass elsewhere."""

    def normalised(drawn: tuple[list[float], float]) -> Floats:
        logits, mass = drawn
        weights = np.exp(np.array(logits) - max(logits))
        return np.array(mass * weights / weights.sum())

    logits = st.lists(st.floats(-40, 0), min_size=size, max_size=size)
    return st.tuples(logits, st.floats(0.55, 1)).map(normalised)


# Rewards ------------------------------------------------------------------------------------------


@quick
@given(probabilities=distributions(101))
def test_a_reward_is_the_expectation_within_the_range(probabilities: Floats) -> None:
    found = reward(POINTWISE, read(probabilities))
    given_valid = probabilities / probabilities.sum()
    assert 0 <= found.reward <= 100
    assert found.reward == pytest.approx(SCORES @ given_valid, abs=1e-9)
    assert found.standard_deviation == pytest.approx(
        math.sqrt((SCORES - found.reward) ** 2 @ given_valid), abs=1e-6
    )
    assert 0 <= found.standard_deviation <= 50 + 1e-9
    assert probabilities[int(found.mode)] == pytest.approx(probabilities.max(), rel=1e-12)
    assert sum(found.distribution) == pytest.approx(1, abs=1e-12)
    assert found.valid_mass == pytest.approx(probabilities.sum(), abs=1e-12)
    assert 0 < found.valid_mass <= 1


@pytest.mark.parametrize("score", [0, 8, 85, 100])
def test_a_certain_critic_gives_its_score_without_spread(score: int) -> None:
    log_probs = np.full(101, -800.0)
    log_probs[score] = 0.0
    found = reward(POINTWISE, Reading(0.0, log_probs, 1))
    assert (found.reward, found.mode, found.standard_deviation) == (score, score, 0)
    assert (found.valid_mass, found.opening_mass) == (1, 0)


def test_the_lower_one_of_equally_probable_scores_is_the_mode() -> None:
    probabilities = np.full(101, 1e-9)
    probabilities[[30, 70]] = 0.4
    assert reward(POINTWISE, read(probabilities)).mode == 30


@quick
@given(probabilities=distributions(101), share=st.floats(0.91, 1))
def test_mass_on_no_answer_changes_no_reward(probabilities: Floats, share: float) -> None:
    whole = reward(POINTWISE, read(probabilities))
    part = reward(POINTWISE, read(probabilities * share))
    assert part.reward == pytest.approx(whole.reward, abs=1e-9)
    assert part.valid_mass == pytest.approx(share * whole.valid_mass, abs=1e-12)


def test_masses_rounded_past_certainty_are_reported_as_certainty() -> None:
    found = reward(POINTWISE, read(np.full(101, 1.0000001 / 101), opening=1e-7))
    assert (found.valid_mass, found.opening_mass) == (1, 0)


@quick
@given(probabilities=distributions(2))
def test_log_odds_are_nats_without_the_statistics_of_scores(probabilities: Floats) -> None:
    found = reward(YES_NO, read(probabilities))
    yes, no = probabilities
    assert found.reward == pytest.approx(np.log(yes / no), abs=1e-9)
    assert (found.mode, found.standard_deviation) == (None, None)
    assert found.distribution == pytest.approx(probabilities / probabilities.sum(), abs=1e-12)
    assert found.valid_mass == pytest.approx(yes + no, abs=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_log_odds_that_are_not_finite_are_the_critics_failure(value: float) -> None:
    with pytest.raises(CriticFailure):
        reward(YES_NO, Reading(0.0, np.array([-0.1, value]), 1))


# Comparisons --------------------------------------------------------------------------------------


@quick
@given(there=distributions(3), back=distributions(3))
def test_swapping_the_pair_negates_the_margin_and_keeps_the_bias(
    there: Floats, back: Floats
) -> None:
    given_ = comparison(PAIRWISE, [read(there), read(back)], 0.0)
    swapped = comparison(PAIRWISE, [read(back), read(there)], 0.0)
    assert given_.margin == -swapped.margin
    assert given_.position_bias == swapped.position_bias
    assert given_.first_probability == swapped.second_probability
    assert given_.second_probability == swapped.first_probability
    assert given_.tie_probability == swapped.tie_probability
    assert given_.preference + swapped.preference == pytest.approx(1, abs=1e-12)


@quick
@given(there=distributions(3), back=distributions(3))
def test_both_orders_are_averaged_before_anything_is_decided(there: Floats, back: Floats) -> None:
    found = comparison(PAIRWISE, [read(there), read(back)], 0.0)
    there, back = there / there.sum(), back / back.sum()
    first, second = (there[0] + back[1]) / 2, (there[1] + back[0]) / 2
    tie = (there[2] + back[2]) / 2
    assert found.first_probability == pytest.approx(first, abs=1e-12)
    assert found.second_probability == pytest.approx(second, abs=1e-12)
    assert found.tie_probability == pytest.approx(tie, abs=1e-12)
    assert found.preference == pytest.approx(first + tie / 2, abs=1e-12)
    assert 0 <= found.preference <= 1


@quick
@given(there=distributions(3), back=distributions(3))
def test_margin_and_bias_are_half_the_difference_and_half_the_sum(
    there: Floats, back: Floats
) -> None:
    found = comparison(PAIRWISE, [read(there), read(back)], 0.0)
    forth, return_ = np.log(there[0] / there[1]), np.log(back[0] / back[1])
    assert found.position_bias is not None
    assert found.margin + found.position_bias == pytest.approx(forth, abs=1e-9)
    assert found.position_bias - found.margin == pytest.approx(return_, abs=1e-9)


@quick
@given(probabilities=distributions(3))
def test_one_order_alone_has_its_own_numbers_and_no_bias(probabilities: Floats) -> None:
    found = comparison(PAIRWISE, [read(probabilities)], 0.0)
    first, second, tie = probabilities / probabilities.sum()
    assert found.position_bias is None
    assert found.margin == pytest.approx(np.log(first / second), abs=1e-9)
    assert found.preference == pytest.approx(first + tie / 2, abs=1e-12)


@quick
@given(probabilities=distributions(3))
def test_a_critic_that_only_looks_at_the_position_prefers_nobody(probabilities: Floats) -> None:
    found = comparison(PAIRWISE, [read(probabilities), read(probabilities)], 0.0)
    assert found.margin == 0
    assert found.preference == pytest.approx(0.5, abs=1e-12)


@quick
@given(there=distributions(2), back=distributions(2))
def test_where_there_are_no_ties_the_preference_is_the_probability_of_the_first(
    there: Floats, back: Floats
) -> None:
    found = comparison(WITHOUT_TIE, [read(there), read(back)], 0.0)
    first = (there[0] / there.sum() + back[1] / back.sum()) / 2
    assert found.tie_probability == 0
    assert found.preference == found.first_probability == pytest.approx(first, abs=1e-12)
    assert found.first_probability + found.second_probability == pytest.approx(1, abs=1e-12)
    assert found.margin == -comparison(WITHOUT_TIE, [read(back), read(there)], 0.0).margin


def test_ties_move_the_preference_and_not_the_margin() -> None:
    sure = comparison(PAIRWISE, [read([0.8, 0.1, 0.1])], 0.0)
    torn = comparison(PAIRWISE, [read([0.08, 0.01, 0.91])], 0.0)
    assert torn.margin == pytest.approx(sure.margin, abs=1e-12)
    assert 0.5 < torn.preference < sure.preference


def test_the_masses_of_a_comparison_are_the_lower_ones_of_its_orders() -> None:
    readings = [read([0.5, 0.2, 0.1], opening=-0.5), read([0.5, 0.2, 0.2], opening=-2.0)]
    for order in (readings, readings[::-1]):
        found = comparison(PAIRWISE, order, 0.0)
        assert found.valid_mass == pytest.approx(0.8, abs=1e-12)
        assert found.opening_mass == -2.0


@quick
@given(there=distributions(3), back=distributions(3), floor=st.floats(0, 50))
def test_within_noise_is_a_margin_smaller_in_size_than_the_floor(
    there: Floats, back: Floats, floor: float
) -> None:
    found = comparison(PAIRWISE, [read(there), read(back)], floor)
    assert found.within_noise == (-floor < found.margin < floor)
    assert found.margin == comparison(PAIRWISE, [read(there), read(back)], 0.0).margin


def test_a_margin_of_exactly_the_floor_is_not_within_it() -> None:
    readings = [Reading(0.0, np.array([-0.5, -1.5, -3.0]), 1)]
    assert comparison(PAIRWISE, readings, 1.0).margin == 1.0
    assert not comparison(PAIRWISE, readings, 1.0).within_noise
    assert comparison(PAIRWISE, readings, np.nextafter(1.0, 2.0)).within_noise


# Refusals -----------------------------------------------------------------------------------------

not_finite = st.sampled_from([math.nan, math.inf, -math.inf])


@quick
@given(probabilities=distributions(101), place=st.integers(0, 100), value=not_finite)
def test_a_number_that_is_not_finite_is_the_critics_failure(
    probabilities: Floats, place: int, value: float
) -> None:
    log_probs = np.log(probabilities)
    log_probs[place] = value
    with pytest.raises(CriticFailure):
        reward(POINTWISE, Reading(-0.1, log_probs, 1))
    with pytest.raises(CriticFailure):
        reward(POINTWISE, read(probabilities, opening=value))


@quick
@given(
    there=distributions(3),
    back=distributions(3),
    place=st.integers(0, 2),
    value=not_finite,
    order=st.booleans(),
)
def test_a_number_that_is_not_finite_in_either_order_fails_the_pair(
    there: Floats, back: Floats, place: int, value: float, order: bool
) -> None:
    log_probs = np.log(there)
    log_probs[place] = value
    readings = [Reading(-0.1, log_probs, 1), read(back)]
    with pytest.raises(CriticFailure):
        comparison(PAIRWISE, readings if order else readings[::-1], 0.0)


@quick
@given(probabilities=distributions(101), opening=st.floats(-50, 0), share=st.floats(0.01, 1))
def test_an_answer_off_the_format_is_refused_with_its_masses_and_any_other_is_not(
    probabilities: Floats, opening: float, share: float
) -> None:
    probabilities = probabilities * share
    mass = probabilities.sum()
    assume(abs(mass - POINTWISE.min_valid_mass) > 1e-9)
    off = opening < POINTWISE.min_opening_mass or mass < POINTWISE.min_valid_mass
    if not off:
        assert reward(POINTWISE, read(probabilities, opening)).opening_mass == opening
        return
    with pytest.raises(OffFormat) as refused:
        reward(POINTWISE, read(probabilities, opening))
    assert float(refused.value.metadata["opening_mass"]) == opening
    assert float(refused.value.metadata["valid_mass"]) == pytest.approx(mass, abs=1e-12)


@pytest.mark.parametrize("template", [POINTWISE, PAIRWISE])
def test_exactly_at_the_floor_is_not_below_it(template: Template) -> None:
    size = len(template.answers)
    probabilities = np.full(size, 0.9 / size)
    at = read(probabilities, opening=template.min_opening_mass)
    below = read(probabilities, opening=np.nextafter(template.min_opening_mass, -math.inf))
    if template is POINTWISE:
        assert reward(template, at).opening_mass == template.min_opening_mass
        with pytest.raises(OffFormat):
            reward(template, below)
    else:
        assert comparison(template, [at, at], 0.0).opening_mass == template.min_opening_mass
        with pytest.raises(OffFormat):
            comparison(template, [at, below], 0.0)


@pytest.mark.parametrize("order", [1, -1])
def test_a_pair_off_the_format_in_one_order_is_refused(order: int) -> None:
    readings = [read([0.5, 0.3, 0.1]), read([0.1, 0.1, 0.1])]
    with pytest.raises(OffFormat):
        comparison(PAIRWISE, readings[::order], 0.0)
