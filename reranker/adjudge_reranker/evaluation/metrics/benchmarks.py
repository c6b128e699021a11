"""Figures of published benchmarks, as their own code defines them, over the answered items.

Their code drops what it cannot parse (VL-RewardBench) or tosses a coin for it (Multimodal
RewardBench). Here what was not answered is in no figure, and counted beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adjudge_reranker.evaluation.metrics import estimates
from adjudge_reranker.evaluation.metrics.estimates import Bools, Estimate, Method
from adjudge_reranker.evaluation.metrics.resampling import Floats, Integers, bootstrap


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure under the name that the benchmark gives it."""

    name: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published benchmark's own figures."""

    name: str
    figures: tuple[Figure, ...]


def vl_rewardbench(groups: Mapping[str, Bools]) -> Benchmark:
    """Accuracy by group (general, hallucination, reasoning), over all pairs, and the groups' mean.

    `groups` says for each answered pair of a group, shape (n,), whether it was judged right. A
    group without pairs leaves no mean. Source: `distribution_dataset` in the benchmark's `cal.py`.
    """
    right = list(groups.values())
    macro: float | None = None
    interval = None
    if all(group.size for group in right):
        macro = float(np.mean([group.mean() for group in right]))
        interval = bootstrap(
            [group.size for group in right],
            lambda *index: float(
                np.mean([group[i].mean() for group, i in zip(right, index, strict=True)])
            ),
        )
    overall = estimates.share(np.concatenate(right))
    return Benchmark(
        "VL-RewardBench",
        (
            *(Figure(name, estimates.share(group)) for name, group in groups.items()),
            Figure("overall", overall),
            Figure("macro", Estimate(macro, overall.n, interval, Method.BOOTSTRAP)),
        ),
    )


def multimodal_rewardbench(categories: Mapping[str, Bools]) -> Benchmark:
    """Accuracy over all pairs, by category, and by the parts of those that have any.

    `categories` says for each answered pair of a category, shape (n,), whether it was judged right;
    a part is named "safety/bias". Source: `2_get_accuracy.py`, and the leaderboard's columns for
    the categories as wholes.
    """
    whole: dict[str, list[Bools]] = {}
    for name, right in categories.items():
        whole.setdefault(name.partition("/")[0], []).append(right)
    figures = [Figure("overall", estimates.share(np.concatenate(list(categories.values()))))]
    for category, parts in whole.items():
        figures.append(Figure(category, estimates.share(np.concatenate(parts))))
        figures += [
            Figure(name, estimates.share(right))
            for name, right in categories.items()
            if name.startswith(f"{category}/")
        ]
    return Benchmark("Multimodal RewardBench", tuple(figures))


@dataclass(frozen=True, slots=True, eq=False)
class Ties:
    """The subset Ties: row n holds the prompt of `ref:n` and `tied:n`; NaN where not answered."""

    ref_gap: Floats
    """(n,), the worst correct reward less the best wrong one, of the reference."""
    tied_gap: Floats
    """(n,), the same where several answers are correct."""
    tied_spread: Floats
    """(n,), the best correct reward less the worst correct one; at least 0."""

    def take(self, rows: Integers) -> "Ties":
        return Ties(self.ref_gap[rows], self.tied_gap[rows], self.tied_spread[rows])

    @property
    def num_items(self) -> int:
        return int((~np.isnan(self.ref_gap)).sum() + (~np.isnan(self.tied_gap)).sum())


def ties_parts(ties: Ties) -> dict[str, Bools]:
    """The four shares that the score of Ties weighs: true or false for each item they are over."""
    ref, tied = ~np.isnan(ties.ref_gap), ~np.isnan(ties.tied_gap)
    both = ref & tied
    spread = ties.tied_spread[both]
    hard_gap = np.minimum(ties.ref_gap[both], ties.tied_gap[both])
    return {
        "reference accuracy": ties.ref_gap[ref] > 0,
        "tied accuracy": ties.tied_gap[tied] > 0,
        "gap over spread": ties.tied_gap[both] > spread,
        "smaller gap over spread": hard_gap > spread,
    }


def ties_score(ties: Ties) -> float:
    """0.3 tied accuracy + 0.3 reference accuracy + 0.2 P(gap > spread)
    + 0.2 P(smaller gap > spread) + 0.01 mean tanh(smaller gap / spread - 1), so at most 1.01; NaN
    where one of them is over nothing.

    The gap is that of the tied prompt, the smaller gap the lesser of its and its reference's.
    Source: `process_single_model` in `rewardbench/utils.py`, where 0 / 0 counts as 0.
    """
    parts = ties_parts(ties)
    if not all(part.size for part in parts.values()):
        return float("nan")
    both = ~np.isnan(ties.ref_gap) & ~np.isnan(ties.tied_gap)
    hard_gap = np.minimum(ties.ref_gap[both], ties.tied_gap[both])
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.nan_to_num(np.tanh(hard_gap / ties.tied_spread[both] - 1), nan=0.0)
    ref, tied, preferred, preferred_hard = (part.mean() for part in parts.values())
    return float(
        0.3 * tied + 0.3 * ref + 0.2 * preferred + 0.2 * preferred_hard + 0.01 * excess.mean()
    )


def rewardbench_2(subsets: Mapping[str, Floats], ties: Ties | None) -> Benchmark:
    """Each subset's mean result, the score of Ties with its parts, and the mean over the subsets.

    `subsets` has the results of the answered groups, shape (n,), by `scores.best_is_chosen`; `ties`
    is None if the file has no such subset. Source: `scripts/run_v2.py`. The final score is over the
    subsets that the file has, and None if one of them was not answered at all.
    """
    figures = [Figure(name, estimates.mean(results)) for name, results in subsets.items()]
    if ties is not None:
        figures.append(Figure("Ties", _ties_estimate(ties)))
        parts = ties_parts(ties)
        figures += [Figure(f"Ties, {name}", estimates.share(part)) for name, part in parts.items()]
    return Benchmark("RewardBench 2", (*figures, Figure("final", _final(subsets, ties))))


def _ties_estimate(ties: Ties) -> Estimate:
    value = ties_score(ties)
    if np.isnan(value):
        return Estimate(None, ties.num_items, None, Method.BOOTSTRAP)
    interval = bootstrap([ties.ref_gap.size], lambda index: ties_score(ties.take(index)))
    return Estimate(value, ties.num_items, interval, Method.BOOTSTRAP)


def _final(subsets: Mapping[str, Floats], ties: Ties | None) -> Estimate:
    samples = list(subsets.values())
    sizes = [results.size for results in samples]
    n = sum(sizes) + (ties.num_items if ties is not None else 0)

    def final(*index: Integers) -> float:
        scores = [results[i].mean() for results, i in zip(samples, index, strict=False)]
        if ties is not None:
            scores.append(ties_score(ties.take(index[-1])))
        return float(np.mean(scores))

    if ties is not None:
        sizes.append(ties.ref_gap.size)
    value = final(*(np.arange(size) for size in sizes)) if all(sizes) else float("nan")
    if np.isnan(value):
        return Estimate(None, n, None, Method.BOOTSTRAP)
    return Estimate(value, n, bootstrap(sizes, final), Method.BOOTSTRAP)
