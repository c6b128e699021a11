"""Every tournament finds the best by a consistent judge, and no failure ever wins."""

import asyncio
import math
import pickle
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import (
    AsyncRewardClient,
    CompareResult,
    Comparison,
    Failure,
    NothingJudged,
    Provenance,
    Reward,
    RewardClient,
    ScoreResult,
    ServerFault,
    async_knockout,
    async_round_robin,
    async_score_then_compare,
    knockout,
    round_robin,
    score_then_compare,
)

NOWHERE = Provenance("model", "", 0, "template", "")


class Judge:
    """Knows what each candidate, which is a number as text, is worth; fails as it is told."""

    def __init__(self, worth, *, failing=frozenset(), lost=frozenset(), broken=None, sign=1.0):
        self.worth = worth
        self.failing = failing  # candidates of which every comparison fails
        self.lost = lost  # pairs that fail, as frozensets of candidates
        self.broken = broken  # what the critic says then instead of a Failure
        self.sign = sign
        self.calls: list[list[tuple[int, int]]] = []

    def score(self, prompt, candidates, **options) -> ScoreResult:
        outcomes = [
            Failure(ServerFault("no score")) if c in self.failing else Reward(self.worth[int(c)])
            for c in candidates
        ]
        return ScoreResult(tuple(outcomes), NOWHERE)

    def compare(self, prompt, candidates, pairs, **options) -> CompareResult:
        named = [(candidates[i], candidates[j]) for i, j in pairs]
        self.calls.append([(int(a), int(b)) for a, b in named])
        return CompareResult(tuple(self.outcome(a, b) for a, b in named), NOWHERE)

    def outcome(self, a, b):
        if {a, b} & self.failing or frozenset((a, b)) in self.lost:
            return self.broken or Failure(ServerFault(f"{a} against {b}"))
        margin = self.sign * (self.worth[int(a)] - self.worth[int(b)])
        return Comparison(margin, 1 / (1 + math.exp(-margin)))


def names(worth) -> list[str]:
    return [str(index) for index in range(len(worth))]


distinct = st.lists(st.integers(-30, 30), min_size=2, max_size=17, unique=True).map(
    lambda worths: [worth / 3 for worth in worths]
)
any_worth = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=12)


@st.composite
def unreliable(draw):
    """A judge that fails at some candidates and at some pairs."""
    worth = draw(distinct)
    candidates = names(worth)
    failing = draw(st.sets(st.sampled_from(candidates)))
    pairs = [frozenset(pair) for pair in combinations(candidates, 2)]
    lost = draw(st.sets(st.sampled_from(pairs)))
    broken = draw(st.sampled_from([None, Comparison(math.nan, 0.9), Comparison(9.0, math.nan)]))
    return Judge(worth, failing=frozenset(failing), lost=frozenset(lost), broken=broken)


def best_of_each(judge: Judge, candidates) -> list[str]:
    return [
        knockout(judge, "Why?", candidates).best.candidate,
        round_robin(judge, "Why?", candidates).best.candidate,
        score_then_compare(judge, judge, "Why?", candidates).best.candidate,
    ]


@given(worth=distinct, data=st.data())
def test_a_consistent_judge_has_its_best_win_everywhere_in_any_order(worth, data) -> None:
    candidates = data.draw(st.permutations(names(worth)))
    best = str(max(range(len(worth)), key=worth.__getitem__))
    assert best_of_each(Judge(worth), candidates) == [best] * 3


@given(worth=distinct, data=st.data())
def test_permuting_candidates_permutes_a_round_robin_and_a_seeded_knockout(worth, data) -> None:
    there, back = names(worth), data.draw(st.permutations(names(worth)))
    judge = Judge(worth)
    orders = [
        [entry.candidate for entry in round_robin(judge, "Why?", c).entries] for c in (there, back)
    ]
    assert orders[0] == orders[1] == sorted(there, key=lambda c: -worth[int(c)])
    seeds = data.draw(st.permutations(range(len(worth))))
    played = [
        knockout(judge, "Why?", c, seeds=[float(seeds[int(name)]) for name in c])
        for c in (there, back)
    ]
    assert [e.candidate for e in played[0].entries] == [e.candidate for e in played[1].entries]


@given(worth=distinct)
def test_negated_margins_reverse_a_round_robin(worth) -> None:
    there = round_robin(Judge(worth), "Why?", names(worth)).entries
    back = round_robin(Judge(worth, sign=-1.0), "Why?", names(worth)).entries
    assert [entry.index for entry in there] == [entry.index for entry in reversed(back)]
    for entry, other in zip(there, reversed(back), strict=True):
        assert entry.strength == pytest.approx(-other.strength, abs=1e-6)
        assert entry.aggregate == pytest.approx(-other.aggregate)
        assert entry.win_fraction == pytest.approx(1 - other.win_fraction)


@given(worth=any_worth)
def test_equals_are_ranked_by_index(worth) -> None:
    entries = round_robin(Judge(worth), "Why?", names(worth)).entries
    assert [e.index for e in entries] == sorted(range(len(worth)), key=lambda i: -worth[i])
    assert knockout(Judge(worth), "Why?", names(worth)).best.index == worth.index(max(worth))


@given(worth=distinct)
def test_a_knockout_takes_one_comparison_less_than_candidates_in_rounds_of_one_call(worth) -> None:
    judge = Judge(worth)
    result = knockout(judge, "Why?", names(worth))
    assert result.num_comparisons == len(worth) - 1 == sum(map(len, judge.calls))
    assert len(judge.calls) == len(result.rounds) == (len(worth) - 1).bit_length()
    assert result.undefeated == (result.best.index,)
    assert sorted(entry.index for entry in result.entries) == list(range(len(worth)))


@given(worth=distinct)
def test_a_round_robin_compares_every_pair_once_in_one_call(worth) -> None:
    judge = Judge(worth)
    result = round_robin(judge, "Why?", names(worth))
    assert judge.calls == [list(combinations(range(len(worth)), 2))]
    assert result.num_comparisons == len(worth) * (len(worth) - 1) // 2


@given(worth=distinct)
def test_the_aggregate_is_twice_the_sum_of_margins_in_favour(worth) -> None:
    for entry in round_robin(Judge(worth), "Why?", names(worth)).entries:
        assert entry.aggregate == pytest.approx(2 * sum(worth[entry.index] - w for w in worth))


@given(judge=unreliable(), data=st.data())
def test_no_failure_wins_a_knockout_and_all_are_listed(judge, data) -> None:
    candidates = names(judge.worth)
    seeds = data.draw(st.none() | st.permutations(range(len(candidates))))
    try:
        result = knockout(judge, "Why?", candidates, seeds=seeds)
    except NothingJudged as error:
        assert len(error.failures) == sum(map(len, judge.calls))
        return
    assert result.best.candidate not in judge.failing
    assert result.best.num_wins > 0 and result.best.lost_to is None
    decided = [pair for pair in result.compared if not isinstance(pair.outcome, Failure)]
    assert len(result.failures) == result.num_comparisons - len(decided)
    asked = [pair for call in judge.calls for pair in call]
    assert [(p.first, p.second) for p in result.compared] == asked
    for entry in result.entries:
        won = [p for p in decided if entry.index in (p.first, p.second)]
        assert entry.num_wins + (entry.lost_to is not None) == len(won)
        if entry.lost_to is not None:
            assert judge.worth[entry.lost_to] > judge.worth[entry.index]
    judged = [entry.is_judged for entry in result.entries]
    assert judged == sorted(judged, reverse=True)
    assert len(asked) == len(set(map(frozenset, asked))) <= 2 * len(candidates) - 1


@given(judge=unreliable())
def test_no_failure_wins_a_round_robin_and_all_are_listed(judge) -> None:
    candidates = names(judge.worth)
    try:
        result = round_robin(judge, "Why?", candidates)
    except NothingJudged as error:
        assert len(error.failures) == len(candidates) * (len(candidates) - 1) // 2
        return
    assert result.best.candidate not in judge.failing
    assert len(result.failures) == sum(isinstance(p.outcome, Failure) for p in result.compared)
    for entry in result.entries:
        mine = [p for p in result.compared if entry.index in (p.first, p.second)]
        num_failed = sum(isinstance(p.outcome, Failure) for p in mine)
        assert entry.num_comparisons == len(mine) - num_failed
        assert (entry.aggregate is None) == (num_failed > 0)
        if entry.candidate in judge.failing:
            assert entry.strength is entry.standard_error is entry.win_fraction is None
            assert entry.index in result.unconnected
    known = [entry.strength is not None for entry in result.entries]
    assert known == sorted(known, reverse=True)


@given(judge=unreliable(), top=st.integers(2, 6))
def test_who_has_no_reward_neither_enters_the_final_nor_wins(judge, top) -> None:
    candidates = names(judge.worth)
    try:
        result = score_then_compare(judge, judge, "Why?", candidates, top=top)
    except NothingJudged:
        assert judge.failing == set(candidates)
        return
    assert result.best.candidate not in judge.failing
    assert not {str(i) for call in judge.calls for pair in call for i in pair} & judge.failing
    assert sorted(entry.index for entry in result.entries) == list(range(len(candidates)))
    compared = result.final.compared if result.final else ()
    num_failed = sum(isinstance(pair.outcome, Failure) for pair in compared)
    assert len(result.failures) == len(judge.failing) + num_failed
    places = [entry.is_judged for entry in result.entries]
    assert places == sorted(places, reverse=True)


def test_comparisons_overrule_rewards_among_the_leading_only() -> None:
    scorer, comparer = Judge([5.0, 4.0, 3.0, 2.0, 1.0]), Judge([1.0, 2.0, 3.0, 9.0, 9.5])
    result = score_then_compare(scorer, comparer, "Why?", names(scorer.worth), top=3)
    assert [entry.index for entry in result.entries] == [2, 1, 0, 3, 4]
    assert result.num_comparisons == 3
    assert result.best.reward == 3.0


def test_a_final_in_which_every_comparison_failed_leaves_the_order_of_rewards() -> None:
    comparer = Judge([0.0] * 3, failing=frozenset("012"))
    result = score_then_compare(Judge([1.0, 3.0, 2.0]), comparer, "Why?", names(range(3)))
    assert [entry.index for entry in result.entries] == [1, 2, 0]
    assert result.final is not None and result.final.best.strength is None
    assert len(result.failures) == 3


def test_a_final_needs_two_who_have_a_reward() -> None:
    judge = Judge([1.0, math.nan, math.inf])
    result = score_then_compare(judge, judge, "Why?", names(judge.worth))
    assert result.final is None and judge.calls == []
    assert result.best.index == 0 and result.num_comparisons == 0


def test_a_tie_and_what_is_within_noise_go_to_the_better_seeded() -> None:
    class Even(Judge):
        def outcome(self, a, b):
            return Comparison(-0.01, 0.49, within_noise=True)

    even = Even([0.0] * 4)
    assert knockout(even, "Why?", names(even.worth)).best.index == 0
    assert knockout(even, "Why?", names(even.worth), seeds=[None, 1, 7, math.nan]).best.index == 2


def test_the_strongest_by_seed_meet_late_and_skip_the_first_round() -> None:
    judge = Judge([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    knockout(judge, "Why?", names(judge.worth), seeds=judge.worth)
    assert judge.calls == [[(3, 0), (2, 1)], [(5, 2), (4, 3)], [(5, 4)]]


def test_one_bad_candidate_does_not_cost_its_opponent_the_tournament() -> None:
    judge = Judge([9.0, 1.0, 2.0, 3.0], failing=frozenset("3"))
    result = knockout(judge, "Why?", names(judge.worth))
    assert judge.calls[0] == [(0, 3), (1, 2)]  # the best meets the bad one first
    assert result.best.index == 0
    assert result.entries[-1].index == 3 and not result.entries[-1].is_judged


def test_if_a_failure_keeps_the_last_two_apart_neither_is_beaten() -> None:
    judge = Judge([4.0, 3.0, 2.0, 1.0], lost=frozenset({frozenset("01")}))
    result = knockout(judge, "Why?", names(judge.worth))
    assert result.undefeated == (0, 1)
    assert result.best.index == 0 and len(result.failures) == 1


def test_candidates_that_do_not_play_are_not_sent() -> None:
    sent = []

    class Watched(Judge):
        def compare(self, prompt, candidates, pairs, **options):
            sent.append(list(candidates))
            return super().compare(prompt, candidates, pairs, **options)

    knockout(Watched([4.0, 3.0, 2.0]), "Why?", names(range(3)))
    assert sent == [["1", "2"], ["0", "1"]]


@pytest.mark.parametrize("num", [0, 1])
def test_a_tournament_needs_two_candidates(num: int) -> None:
    judge = Judge([1.0])
    for tournament in (knockout, round_robin):
        with pytest.raises(ValueError, match="two candidates"):
            tournament(judge, "Why?", ["0"] * num)


def test_options_out_of_range_are_refused_before_anything_is_asked() -> None:
    judge = Judge([1.0, 2.0])
    with pytest.raises(ValueError, match="top"):
        score_then_compare(judge, judge, "Why?", ["0", "1"], top=1)
    with pytest.raises(ValueError, match="max_failures"):
        knockout(judge, "Why?", ["0", "1"], max_failures=0)
    with pytest.raises(ValueError, match="seeds"):
        knockout(judge, "Why?", ["0", "1"], seeds=[1.0])
    for prior in (0.0, math.nan):
        with pytest.raises(ValueError, match="prior"):
            round_robin(judge, "Why?", ["0", "1"], prior=prior)
    assert judge.calls == []


def test_a_comparer_that_leaves_pairs_out_is_caught() -> None:
    class Short(Judge):
        def outcome(self, a, b):
            return Comparison(1.0, 0.7)

        def compare(self, prompt, candidates, pairs, **options):
            return super().compare(prompt, candidates, pairs[1:], **options)

    for tournament in (knockout, round_robin):
        with pytest.raises(ValueError, match="outcomes for"):
            tournament(Short([0.0] * 4), "Why?", names(range(4)))


ANSWERS = ["so", "no", "because", "word " * 40_000, "so", "perhaps, who knows"]


def test_a_client_plays_tournaments_and_its_failures_do_not_win(client: RewardClient) -> None:
    league = round_robin(client, "Why?", ANSWERS)
    cup = knockout(client, "Why?", ANSWERS)
    both = score_then_compare(client, client, "Why?", ANSWERS, top=3)
    assert league.unconnected == (3,)
    assert [error.reason for error in league.failures] == ["INPUT_TOO_LONG"] * 5
    assert not cup.entries[-1].is_judged and cup.entries[-1].index == 3
    assert both.entries[-1].index == 3
    assert league.provenance.template_hash == cup.rounds[0].provenance.template_hash != ""


def test_results_survive_pickling(client: RewardClient) -> None:
    answers = ["so", "no", "because"]
    for result in (
        knockout(client, "Why?", answers),
        round_robin(client, "Why?", answers),
        score_then_compare(client, client, "Why?", answers),
    ):
        assert pickle.loads(pickle.dumps(result)) == result


def test_the_twins_that_do_not_block_say_the_same(client: RewardClient, address: str) -> None:
    async def play():
        async with AsyncRewardClient(address) as twin:
            return (
                await async_knockout(twin, "Why?", ANSWERS),
                await async_round_robin(twin, "Why?", ANSWERS),
                await async_score_then_compare(twin, twin, "Why?", ANSWERS),
            )

    cup, league, both = asyncio.run(play())
    assert cup.entries == knockout(client, "Why?", ANSWERS).entries
    assert league.entries == round_robin(client, "Why?", ANSWERS).entries
    expected = score_then_compare(client, client, "Why?", ANSWERS)
    assert both.final is not None and expected.final is not None
    assert both.final.entries == expected.final.entries


def test_the_example_prints_what_each_strategy_finds_and_costs() -> None:
    script = Path(__file__).parents[2] / "examples" / "strategies.py"
    command = [sys.executable, script, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| `best_of_n`",
        "| `knockout`",
        "| `knockout`, seeded by rewards",
        "| `score_then_compare`, top 4",
        "| `round_robin`",
    ]
    assert "(4 + 0)" in rows[0] and "(0 + 3)" in rows[1] and "(0 + 6)" in rows[4]
