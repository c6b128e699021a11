"""From judged items to the arrays that metrics take. Only what was answered gets into them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from adjudge_reranker.evaluation.importers import rewardbench_2
from adjudge_reranker.evaluation.judge import Judged
from adjudge_reranker.evaluation.metrics.benchmarks import Ties
from adjudge_reranker.evaluation.metrics.estimates import Bools
from adjudge_reranker.evaluation.metrics.pairs import PairArrays, right
from adjudge_reranker.evaluation.metrics.resampling import Floats, Integers
from adjudge_reranker.evaluation.metrics.scores import best_is_chosen
from adjudge_reranker.evaluation.records import (
    Item,
    LabelledGroup,
    LabelledPair,
    LabelledScore,
    Preferred,
)
from adjudge_reranker.types import Comparison, Reward

_LABEL = {Preferred.FIRST: 1, Preferred.SECOND: -1, Preferred.TIE: 0}


def pair_arrays(judged: Iterable[Judged]) -> PairArrays:
    """The answered pairs."""
    found = [
        (one.item, one.reading)
        for one in judged
        if isinstance(one.item, LabelledPair) and isinstance(one.reading, Comparison)
    ]
    readings = [reading for _, reading in found]
    probabilities = [
        (r.first_probability, r.second_probability, r.tie_probability) for r in readings
    ]
    return PairArrays(
        label=np.array([_LABEL[item.preferred] for item, _ in found], np.int64),
        margin=_floats([r.margin for r in readings]),
        preference=_floats([r.preference for r in readings]),
        probabilities=_floats([p for row in probabilities for p in row]).reshape(-1, 3),
        position_bias=_floats([r.position_bias for r in readings]),
        cluster=_clusters([item for item, _ in found]),
    )


def score_arrays(judged: Iterable[Judged]) -> tuple[Floats, Floats, Integers]:
    """The labels, the rewards and the clusters of the answered scores, each of shape (n,)."""
    found = [
        (one.item, one.reading.reward)
        for one in judged
        if isinstance(one.item, LabelledScore) and isinstance(one.reading, Reward)
    ]
    items = [item for item, _ in found]
    labels, rewards = [item.score for item in items], [reward for _, reward in found]
    return _floats(labels), _floats(rewards), _clusters(items)


def group_rewards(judged: Iterable[Judged]) -> list[tuple[LabelledGroup, Floats, Floats]]:
    """The answered groups, with the rewards of their chosen and of their rejected candidates."""
    found = []
    for one in judged:
        if isinstance(one.item, LabelledGroup) and isinstance(one.reading, tuple):
            rewards = _floats([reward.reward for reward in one.reading])
            num_chosen = len(one.item.chosen)
            found.append((one.item, rewards[:num_chosen], rewards[num_chosen:]))
    return found


def group_credits(judged: Iterable[Judged]) -> Floats:
    """What `best_is_chosen` gives for each answered group, shape (n,)."""
    return group_arrays(judged)[0]


def group_arrays(judged: Iterable[Judged]) -> tuple[Floats, Integers]:
    """What `best_is_chosen` gives for each answered group, and its cluster, both of shape (n,)."""
    groups = group_rewards(judged)
    credits = [best_is_chosen(chosen, rejected) for _, chosen, rejected in groups]
    return _floats(credits), _clusters([item for item, _, _ in groups])


def right_by_subset(judged: Iterable[Judged], subsets: Iterable[str]) -> dict[str, Bools]:
    """For each subset whether each of its answered pairs was judged right, shape (n,)."""
    members: dict[str, list[Judged]] = {subset: [] for subset in subsets}
    for one in judged:
        members[one.item.subset or ""].append(one)
    arrays = {subset: pair_arrays(those) for subset, those in members.items()}
    return {subset: right(pairs.label, pairs.margin) for subset, pairs in arrays.items()}


def credits_by_subset(judged: Iterable[Judged]) -> dict[str, Floats]:
    """The credits of each subset of RewardBench 2 but Ties, in the order of the file."""
    members: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        if not rewardbench_2.is_ties(one.item.subset):
            members[one.item.subset or ""].append(one)
    return {subset: group_credits(those) for subset, those in members.items()}


def ties_arrays(judged: Sequence[Judged]) -> Ties | None:
    """The subset Ties of RewardBench 2; None if there is no item of it."""
    members = [one for one in judged if rewardbench_2.is_ties(one.item.subset)]
    if not members:
        return None
    numbers = sorted({rewardbench_2.ties_id(one.item.id)[1] for one in members})
    row = {number: i for i, number in enumerate(numbers)}
    ref_gap, tied_gap, tied_spread = (np.full(len(row), np.nan) for _ in range(3))
    for item, chosen, rejected in group_rewards(members):
        kind, number = rewardbench_2.ties_id(item.id)
        gap = chosen.min() - rejected.max()
        if kind == "ref":
            ref_gap[row[number]] = gap
        else:
            tied_gap[row[number]] = gap
            tied_spread[row[number]] = chosen.max() - chosen.min()
    return Ties(ref_gap, tied_gap, tied_spread)


def _clusters(items: Iterable[Item]) -> Integers:
    # Which number a cluster has means nothing; an item without one gets a number of its own.
    numbers: dict[object, int] = {}
    keys = (place if item.cluster is None else (item.cluster,) for place, item in enumerate(items))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _floats(values: Sequence[float | None]) -> Floats:
    # None becomes NaN.
    return np.array(values, np.float64)
