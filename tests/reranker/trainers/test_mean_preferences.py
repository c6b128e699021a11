from itertools import combinations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import (
    CompareOutcome,
    CompareResult,
    Comparison,
    Failure,
    Provenance,
    RequestRefused,
    ServerUnavailable,
)
from adjudge_reranker.trainers.judging import Judgement, mean_preferences

TOO_LONG = Failure(RequestRefused("too long", reason="INPUT_TOO_LONG"))
DOWN = Failure(ServerUnavailable("down", code=grpc.StatusCode.UNAVAILABLE))
THREE = list(combinations(range(3), 2))


def result(outcomes: list[CompareOutcome]) -> CompareResult:
    return CompareResult(tuple(outcomes), Provenance("", "", 0, "", ""))


def preferring(preference: float) -> Comparison:
    return Comparison(margin=0.0, preference=preference)


@given(st.integers(2, 6).flatmap(lambda n: st.tuples(st.just(n), st.data())))
def test_the_mean_over_a_group_is_a_half(drawn: tuple[int, st.DataObject]) -> None:
    size, data = drawn
    pairs = list(combinations(range(size), 2))
    outcomes = [preferring(data.draw(st.floats(0, 1))) for _ in pairs]
    judged = mean_preferences(result(list(outcomes)), pairs)
    values = [one.value for one in judged if isinstance(one, Judgement)]
    assert len(values) == size
    assert all(0 <= value <= 1 for value in values)
    assert sum(values) / size == pytest.approx(0.5)


def test_a_candidate_that_cannot_be_judged_costs_its_siblings_nothing() -> None:
    judged = mean_preferences(result([preferring(0.8), TOO_LONG, TOO_LONG]), THREE)
    assert judged[0] == Judgement(pytest.approx(0.8))
    assert judged[1] == Judgement(pytest.approx(0.2))
    assert judged[2] == TOO_LONG


def test_a_comparison_that_could_be_made_later_leaves_both_without_a_preference() -> None:
    judged = mean_preferences(result([preferring(0.8), preferring(0.8), DOWN]), THREE)
    assert judged == [Judgement(pytest.approx(0.8)), DOWN, DOWN]
