"""Which candidates make a pair, whatever their rewards."""

import math
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker.mining import Contender, NoPair, Pairing, choose_pairs, distinct

REWARDS = st.none() | st.floats(-100, 100) | st.sampled_from([math.nan, math.inf, -math.inf, 50.0])
TEXTS = st.sampled_from(["a", " a", "a\n", "b", "b  c", "b c", "", " ", "d", "e", "f"])
NOISES = st.sampled_from([0.0, 0.1, 30.0, math.nan])


@st.composite
def groups(draw: st.DrawFn) -> list[Contender]:
    number = draw(st.integers(0, 8))
    return [Contender(i, draw(TEXTS), draw(REWARDS), draw(NOISES)) for i in range(number)]


@given(groups(), st.sampled_from(Pairing), st.sampled_from([0.0, 5.0, 150.0]), st.integers())
def test_every_pair_is_of_two_different_judged_candidates_over_noise_and_margin(
    group: list[Contender], pairing: Pairing, min_margin: float, seed: int
) -> None:
    pairs = choose_pairs(group, pairing, min_margin=min_margin, rng=random.Random(seed))
    if isinstance(pairs, NoPair):
        return
    assert pairs
    for pair in pairs:
        chosen, rejected = group[pair.chosen], group[pair.rejected]
        assert chosen.reward is not None and rejected.reward is not None
        assert math.isfinite(chosen.reward) and math.isfinite(rejected.reward)
        assert chosen.text.split() != rejected.text.split()
        assert pair.margin == chosen.reward - rejected.reward > 0
        assert pair.margin >= min_margin and pair.margin > chosen.noise + rejected.noise
    assert len({(pair.chosen, pair.rejected) for pair in pairs}) == len(pairs)


@given(groups(), st.sampled_from([0.0, 5.0, 150.0]))
def test_all_leaves_out_no_pair_that_qualifies_and_no_pairing_makes_others(
    group: list[Contender], min_margin: float
) -> None:
    judged = [c for c in group if c.reward is not None and math.isfinite(c.reward)]
    judged = [judged[place] for place in distinct([c.text for c in judged])]
    wanted = {
        (better.index, worse.index)
        for pair in combinations(judged, 2)
        for better, worse in (pair, pair[::-1])
        if (margin := better.reward - worse.reward) > 0  # type: ignore[operator]
        and margin > better.noise + worse.noise
        and margin >= min_margin
    }
    for pairing in Pairing:
        pairs = choose_pairs(group, pairing, min_margin=min_margin)
        found = () if isinstance(pairs, NoPair) else pairs
        assert {(pair.chosen, pair.rejected) for pair in found} <= wanted
        if pairing is Pairing.ALL:
            assert len(found) == len(wanted)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_best_worst_spans_all_rewards(rewards: list[float]) -> None:
    group = [Contender(i, str(i), reward) for i, reward in enumerate(rewards)]
    pairs = choose_pairs(group)
    if len(set(rewards)) == 1:
        assert pairs is NoPair.TIED
        return
    (pair,) = pairs  # type: ignore[misc]
    assert rewards[pair.chosen] == max(rewards) and rewards[pair.rejected] == min(rewards)


@given(st.permutations(range(6)))
def test_adjacent_pairs_are_neighbours_from_best_to_worst(rewards: list[int]) -> None:
    group = [Contender(i, str(i), float(reward)) for i, reward in enumerate(rewards)]
    pairs = choose_pairs(group, Pairing.ADJACENT)
    assert not isinstance(pairs, NoPair)
    assert [(rewards[p.chosen], rewards[p.rejected]) for p in pairs] == [
        (n, n - 1) for n in range(5, 0, -1)
    ]


def test_best_random_draws_everyone_that_the_best_beats_and_nobody_else() -> None:
    group = [Contender(i, str(i), float(i)) for i in range(5)] + [Contender(5, "5", 3.9)]
    drawn = set()
    for seed in range(200):  # that one of four is never drawn: 4 * (3/4)**200 < 1e-24
        pairs = choose_pairs(group, Pairing.BEST_RANDOM, min_margin=0.5, rng=random.Random(seed))
        (pair,) = pairs  # type: ignore[misc]
        assert pair.chosen == 4
        drawn.add(pair.rejected)
    assert drawn == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("rewards", "texts", "noise", "reason"),
    [
        ([1.0, None], "ab", 0.0, NoPair.TOO_FEW_CANDIDATES),
        ([1.0, math.nan], "ab", 0.0, NoPair.TOO_FEW_CANDIDATES),
        ([1.0, 9.0], "aa", 0.0, NoPair.TOO_FEW_CANDIDATES),
        ([], "", 0.0, NoPair.TOO_FEW_CANDIDATES),
        ([1.0, 1.0], "ab", 0.0, NoPair.TIED),
        ([1.0, 2.0], "ab", 0.5, NoPair.WITHIN_NOISE),
        ([1.0, 2.0], "ab", 0.1, NoPair.UNDER_MARGIN),
    ],
)
def test_without_a_pair_the_reason_is_given(
    rewards: list[float | None], texts: str, noise: float, reason: NoPair
) -> None:
    group = [Contender(i, texts[i], reward, noise) for i, reward in enumerate(rewards)]
    assert choose_pairs(group, Pairing.ALL, min_margin=5.0) is reason
