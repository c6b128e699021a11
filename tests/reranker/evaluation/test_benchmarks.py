"""Published figures against a slow reading of the benchmarks' own code."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker.evaluation.metrics import benchmarks
from adjudge_reranker.evaluation.metrics.benchmarks import Benchmark, Ties
from adjudge_reranker.evaluation.metrics.estimates import Estimate, Method

NAN = float("nan")
REWARDS = st.integers(0, 6).map(float)


def figures(benchmark: Benchmark) -> dict[str, Estimate]:
    return {figure.name: figure.estimate for figure in benchmark.figures}


def rights(right: int, wrong: int) -> np.ndarray:
    return np.array([True] * right + [False] * wrong)


def test_vl_rewardbench_by_hand() -> None:
    found = figures(
        benchmarks.vl_rewardbench(
            {"general": rights(1, 3), "hallucination": rights(3, 3), "reasoning": rights(8, 2)}
        )
    )
    assert found["general"].value == 0.25 and found["general"].n == 4
    assert found["overall"].value == pytest.approx(12 / 20)
    assert found["overall"].method is Method.WILSON
    assert found["macro"].value == pytest.approx((0.25 + 0.5 + 0.8) / 3)
    low, high = found["macro"].interval
    assert low < found["macro"].value < high and found["macro"].n == 20


def test_a_group_without_answers_leaves_no_macro_average() -> None:
    found = figures(
        benchmarks.vl_rewardbench(
            {"general": rights(0, 0), "hallucination": rights(3, 3), "reasoning": rights(8, 2)}
        )
    )
    assert found["general"].value is None and found["macro"].value is None
    assert found["overall"].value == pytest.approx(11 / 16)


def test_multimodal_rewardbench_by_hand() -> None:
    found = figures(
        benchmarks.multimodal_rewardbench(
            {
                "knowledge": rights(1, 1),
                "reasoning/coding": rights(1, 3),
                "reasoning/math": rights(5, 1),
                "safety/bias": rights(0, 2),
            }
        )
    )
    assert {name: round(one.value, 6) for name, one in found.items()} == {
        "overall": 0.5,
        "knowledge": 0.5,
        "reasoning": 0.6,
        "reasoning/coding": 0.25,
        "reasoning/math": 0.833333,
        "safety": 0.0,
        "safety/bias": 0.0,
    }
    assert found["reasoning"].n == 10


def slow_ties_score(refs, tieds) -> float:
    """The formula of RewardBench 2, one prompt at a time; each is (correct, incorrect) rewards."""

    def stats(correct, incorrect):
        gap = min(correct) - max(incorrect)
        return gap > 0, max(correct) - min(correct), gap

    ref, tied = [stats(*r) for r in refs], [stats(*t) for t in tieds]
    n = len(ref)
    preferred = sum(t[2] > t[1] for t in tied) / n
    hard = sum(min(r[2], t[2]) > t[1] for r, t in zip(ref, tied, strict=True)) / n
    breaker = 0.0
    for r, t in zip(ref, tied, strict=True):
        gap = min(r[2], t[2])
        if t[1] == 0:
            breaker += 0.0 if gap == 0 else math.copysign(1.0, gap)
        else:
            breaker += math.tanh(gap / t[1] - 1)
    return (
        0.30 * sum(t[0] for t in tied) / n
        + 0.30 * sum(r[0] for r in ref) / n
        + 0.20 * preferred
        + 0.20 * hard
        + 0.01 * breaker / n
    )


def rewards(at_least: int) -> st.SearchStrategy[list[float]]:
    return st.lists(REWARDS, min_size=at_least, max_size=4)


@given(
    st.lists(
        st.tuples(st.tuples(rewards(1), rewards(1)), st.tuples(rewards(2), rewards(1))),
        min_size=1,
        max_size=6,
    )
)
def test_ties_are_scored_as_the_benchmark_does(prompts) -> None:
    refs, tieds = [ref[:2] for ref, _ in prompts], [tied for _, tied in prompts]
    ties = Ties(
        ref_gap=np.array([min(c) - max(i) for c, i in refs]),
        tied_gap=np.array([min(c) - max(i) for c, i in tieds]),
        tied_spread=np.array([max(c) - min(c) for c, _ in tieds]),
    )
    assert benchmarks.ties_score(ties) == pytest.approx(slow_ties_score(refs, tieds))


def test_ties_by_hand() -> None:
    # Gap 4 over spread 2 and a reference at 1: accurate, preferred, but not against its reference.
    ties = Ties(np.array([1.0]), np.array([4.0]), np.array([2.0]))
    expected = 0.3 + 0.3 + 0.2 + 0.0 + 0.01 * math.tanh(1 / 2 - 1)
    assert benchmarks.ties_score(ties) == pytest.approx(expected)


def test_what_was_not_answered_is_in_no_part_of_ties() -> None:
    ties = Ties(np.array([1.0, NAN, -1.0]), np.array([4.0, -4.0, NAN]), np.array([2.0, 1.0, NAN]))
    parts = benchmarks.ties_parts(ties)
    assert [part.size for part in parts.values()] == [2, 2, 1, 1]
    assert ties.num_items == 4
    expected = 0.3 * 0.5 + 0.3 * 0.5 + 0.2 + 0.0 + 0.01 * math.tanh(1 / 2 - 1)
    assert benchmarks.ties_score(ties) == pytest.approx(expected)
    assert math.isnan(benchmarks.ties_score(ties.take(np.array([1, 2]))))  # no prompt has both


def test_rewardbench_2_is_the_mean_of_its_subsets() -> None:
    ties = Ties(np.array([1.0, 1.0]), np.array([4.0, 4.0]), np.array([2.0, 2.0]))
    subsets = {"Math": np.array([1.0, 0.0]), "Focus": np.array([1.0, 1 / 3, 0.5, 1.0])}
    found = figures(benchmarks.rewardbench_2(subsets, ties))
    score = benchmarks.ties_score(ties)
    assert found["Focus"].value == pytest.approx(17 / 24)
    assert found["Ties"].value == score and found["Ties"].n == 4
    assert found["Ties, smaller gap over spread"].value == 0
    assert found["final"].value == pytest.approx((0.5 + 17 / 24 + score) / 3)
    assert found["final"].n == 10
    low, high = found["final"].interval
    assert low < found["final"].value < high


def test_a_subset_without_answers_leaves_no_final_score() -> None:
    subsets = {"Math": np.array([]), "Focus": np.array([1.0, 0.5])}
    found = figures(benchmarks.rewardbench_2(subsets, None))
    assert found["Math"].value is None and found["final"].value is None
    assert "Ties" not in found and found["Focus"].value == 0.75
    only_refs = Ties(np.array([1.0]), np.array([NAN]), np.array([NAN]))
    found = figures(benchmarks.rewardbench_2({"Focus": subsets["Focus"]}, only_refs))
    assert found["Ties"].value is None and found["final"].value is None
