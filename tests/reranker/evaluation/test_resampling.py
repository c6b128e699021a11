"""Intervals: what they cost, that they hold what they should, and what clusters make of them."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from adjudge_reranker.evaluation.arrays import score_arrays
from adjudge_reranker.evaluation.importers import load_items
from adjudge_reranker.evaluation.judge import Judged
from adjudge_reranker.evaluation.metrics import calibration, estimates, pairs
from adjudge_reranker.evaluation.metrics.estimates import Method
from adjudge_reranker.evaluation.records import BadRecord, LabelledScore
from adjudge_reranker.types import Reward
from tests.reranker.evaluation.test_importers import PAIR, SCORE, parquet, written
from tests.reranker.evaluation.told import Evaluate, pair, score


def test_a_bootstrap_of_many_items_is_small() -> None:
    values = np.random.default_rng(0).uniform(size=100_000)
    tracemalloc.start()
    estimates.mean(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * values.nbytes  # all resamples at once would be 1000 times as much


def perfect(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    preference = rng.uniform(size=n)
    return np.where(rng.uniform(size=n) < preference, 1, -1), preference


def test_a_calibration_error_lies_within_its_interval_and_so_does_the_true_one() -> None:
    rng = np.random.default_rng(7)
    holds_truth = 0
    for _ in range(60):
        found = pairs.preference_calibration(*perfect(rng, 200)).error
        low, high = found.interval
        assert 0 <= low <= found.value <= high <= 1
        holds_truth += low == 0
    assert found.method is Method.BASIC_BOOTSTRAP
    assert holds_truth >= 54  # of percentiles, none


def test_a_miscalibrated_critic_is_told_from_a_perfect_one() -> None:
    rng, truth = np.random.default_rng(8), 0.175  # it says p and is right with 0.35 + 0.3 p
    holds_truth, told_apart = 0, 0
    for _ in range(60):
        preference = rng.uniform(size=200)
        label = np.where(rng.uniform(size=200) < 0.35 + 0.3 * preference, 1, -1)
        low, high = pairs.preference_calibration(label, preference).error.interval
        told_apart += low > 0
        holds_truth += low <= truth <= high
    assert holds_truth >= 53 and told_apart >= 57


def test_the_interval_stays_within_what_is_possible() -> None:
    said = np.full(20, 100.0)
    found = calibration.calibration(said, np.zeros(20), scale=100.0).error
    assert found.interval == (100.0, 100.0)


def width(estimate: estimates.Estimate) -> float:
    low, high = estimate.interval
    return high - low


def test_copies_of_an_item_add_nothing_to_what_is_known() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=100)
    y, right = x + rng.normal(size=100), rng.uniform(size=100) < 0.8
    label, preference = np.where(right, 1, -1), rng.uniform(size=100)  # far from calibrated
    cluster = np.repeat(np.arange(100), 9)

    def error(label: Any, preference: Any, cluster: Any = None) -> estimates.Estimate:
        return pairs.preference_calibration(label, preference, cluster).error

    for figure, arrays in (
        (estimates.share, [right]),
        (estimates.mean, [x]),
        (estimates.pearson, [x, y]),
        (estimates.spearman, [x, y]),
        (error, [label, preference]),
    ):
        copies = [np.repeat(array, 9) for array in arrays]
        once, naive, copied = figure(*arrays), figure(*copies), figure(*copies, cluster)
        assert copied.value == pytest.approx(once.value) == naive.value
        assert (once.clusters, copied.clusters, copied.n) == (None, 100, 900)
        # Correlations have another method with clusters than without.
        assert width(copied) == pytest.approx(width(once), rel=0.3)
        assert width(naive) < 0.6 * width(copied)


def test_clusters_of_one_change_nothing() -> None:
    rng = np.random.default_rng(2)
    values, right = rng.uniform(size=30), rng.uniform(size=30) < 0.5
    alone = rng.permutation(30)
    assert estimates.mean(values, alone) == estimates.mean(values)
    assert estimates.share(right, alone) == estimates.share(right)
    assert estimates.pearson(values, right * 1.0, alone).method is Method.FISHER_Z


def test_a_share_of_clusters_holds_the_truth_where_wilsons_own_interval_does_not() -> None:
    rng, cluster = np.random.default_rng(3), np.repeat(np.arange(40), 5)
    holds = {True: 0, False: 0}
    for _ in range(200):
        whole = rng.uniform(size=40) < 0.5  # half of the clusters are right or wrong as one
        right = np.where(
            (rng.uniform(size=40) < 0.5)[cluster], whole[cluster], rng.uniform(size=200) < 0.5
        )
        for clustered in (True, False):
            low, high = estimates.share(right, cluster if clustered else None).interval
            holds[clustered] += low <= 0.5 <= high
    assert holds[True] >= 184 and holds[False] < 165


def test_a_share_of_one_still_has_an_interval_as_wide_as_that_of_its_clusters() -> None:
    cluster = np.repeat(np.arange(10), 8)
    found = estimates.share(np.ones(80, bool), cluster)
    assert found.interval == estimates.share(np.ones(10, bool)).interval
    one = estimates.share(np.ones(80, bool), np.zeros(80, int))
    assert (one.value, one.interval, one.clusters) == (1.0, None, 1)


def test_members_need_not_stand_together_nor_be_equally_many() -> None:
    rng = np.random.default_rng(4)
    cluster = rng.integers(0, 20, 200)
    values = rng.normal(size=20)[cluster] + 0.01 * rng.normal(size=200)
    order = rng.permutation(200)
    one = estimates.mean(values, cluster)
    other = estimates.mean(values[order], 7 - 3 * cluster[order])
    assert other.value == pytest.approx(one.value)
    assert width(other) == pytest.approx(width(one), rel=0.15)
    assert width(one) > 2 * width(estimates.mean(values))


def test_clusters_are_strings_or_integers(tmp_path: Any) -> None:
    rows = [SCORE | {"cluster": c} for c in ("a", 1, "1", None)]
    for path in (written(tmp_path, *rows, SCORE), parquet(tmp_path, SCORE | {"cluster": "a"})):
        items = load_items(path)
        assert [item.cluster for item in items] == ["a", 1, "1", None, None][: len(items)]
    for wrong in (True, 1.5, ["a"], "\ud800"):
        with pytest.raises(BadRecord) as caught:
            load_items(written(tmp_path, PAIR | {"cluster": wrong}))
        assert (caught.value.place, caught.value.field) == ("line 1", "cluster")


def test_items_without_a_cluster_are_their_own() -> None:
    clusters = ["a", 0, None, "a", "0", None, 0]
    shared = {"place": "", "prompt": "", "candidate": "so", "score": 1.0}
    judged = [
        Judged(LabelledScore(**shared, id=i, cluster=cluster), Reward(float(i)))
        for i, cluster in enumerate(clusters)
    ]
    _, _, found = score_arrays(judged)
    assert found[0] == found[3] and found[1] == found[6] and len(set(found.tolist())) == 5


def test_clusters_reach_every_figure(told: str, evaluate: Evaluate) -> None:
    first = "[2.0, 0.5, 0.72, 0.08, 0.2]"
    rows = []
    for i in range(8):
        rows.append(pair(first, "first" if i % 2 else "second", cluster=i // 4))
        rows.append(score(str(i), 10 * i, cluster=f"picture {i // 4}"))
        group = {"prompt": "Why?", "chosen": [str(i % 3)], "rejected": ["1"]}
        rows.append(group | {"cluster": i // 4})
    rows.append(pair("[0.1, 0.2, 0.3, 0.2, 0.5]", "tie", cluster=1))
    result, found, records = evaluate(told, *rows)
    overall = found["overall"]
    assert result.exit_code == 0 and "Wilson, 2 clusters" in result.stdout
    of_pairs, of_scores = overall["pairs"], overall["scores"]
    for figure in (
        of_pairs["accuracy"],
        of_pairs["three_way_accuracy"],
        of_pairs["order_consistency"],
        of_pairs["preference_calibration"]["error"],
        of_pairs["position_bias"]["mean"],
        of_scores["pearson"],
        of_scores["spearman"],
        of_scores["mean_absolute_error"],
        of_scores["reward_calibration"]["error"],
        overall["groups"]["best_is_chosen"],
    ):
        assert figure["clusters"] == 2
    assert [record["cluster"] for record in records[:2]] == [0, "picture 0"]
