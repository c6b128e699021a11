"""Rankings are deterministic, and nothing that is not a reward can win."""

import asyncio
import math
import pickle
from dataclasses import FrozenInstanceError

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import (
    CompareResult,
    Comparison,
    Failure,
    NothingJudged,
    Provenance,
    Reward,
    RewardClient,
    ScoreResult,
    ServerFault,
    ServerUnavailable,
    async_best_of_n,
    best_of_n,
    rank,
)
from tests.reranker.scripted import ScriptedService, fail, good_scores

NOWHERE = Provenance("model", "", 0, "template", "")


def result(*rewards: float | None) -> ScoreResult:
    return ScoreResult(
        tuple(
            Failure(ServerFault(f"failure {index}")) if reward is None else Reward(reward)
            for index, reward in enumerate(rewards)
        ),
        NOWHERE,
    )


def names(count: int) -> list[str]:
    return [f"candidate {index}" for index in range(count)]


class Fixed:
    """Scores and compares without a server; `**options` is all that the protocols ask for."""

    def __init__(self, *rewards: float | None) -> None:
        self.rewards = rewards
        self.pairs: list[tuple[int, int]] = []

    def score(self, prompt, candidates, **options) -> ScoreResult:
        return result(*self.rewards)

    def compare(self, prompt, candidates, pairs, **options) -> CompareResult:
        self.pairs = list(pairs)
        return CompareResult(tuple(Comparison(-1.0, 0.3) for _ in pairs), NOWHERE)


judged = st.floats(-1e6, 1e6) | st.integers(0, 3).map(float)
unjudged = st.sampled_from([None, math.nan, math.inf, -math.inf])
some_judged = st.lists(judged | unjudged, min_size=1, max_size=12).filter(
    lambda rewards: any(r is not None and math.isfinite(r) for r in rewards)
)


def is_judged(reward: float | None) -> bool:
    return reward is not None and math.isfinite(reward)


@given(rewards=some_judged)
def test_the_best_has_the_highest_reward_and_of_equals_the_lowest_index(rewards) -> None:
    best = rank(names(len(rewards)), result(*rewards)).best
    highest = max(reward for reward in rewards if is_judged(reward))
    assert best.index == rewards.index(highest)
    assert best.candidate == f"candidate {best.index}"
    assert best.reward == highest


@given(rewards=some_judged)
def test_the_order_is_rewards_then_indices_then_failures(rewards) -> None:
    entries = rank(names(len(rewards)), result(*rewards)).entries
    assert sorted(entry.index for entry in entries) == list(range(len(rewards)))
    num_judged = sum(map(is_judged, rewards))
    places = [(-rewards[e.index], e.index) for e in entries[:num_judged]]
    assert places == sorted(places)
    left = [entry.index for entry in entries[num_judged:]]
    assert left == sorted(left)
    assert not any(is_judged(rewards[index]) for index in left)


@given(rewards=some_judged, data=st.data())
def test_permuting_candidates_does_not_change_what_wins(rewards, data) -> None:
    order = data.draw(st.permutations(range(len(rewards))))
    there = rank(names(len(rewards)), result(*rewards))
    back = rank([f"candidate {i}" for i in order], result(*[rewards[i] for i in order]))
    num_judged = sum(map(is_judged, rewards))
    assert [e.reward for e in there.entries][:num_judged] == [e.reward for e in back.entries][
        :num_judged
    ]
    if rewards.count(there.best.reward) == 1:
        assert there.best.candidate == back.best.candidate


@given(rewards=st.lists(unjudged, min_size=1, max_size=5))
def test_if_nothing_was_judged_nothing_is_best(rewards) -> None:
    with pytest.raises(NothingJudged, match=f"none of {len(rewards)} candidates") as caught:
        rank(names(len(rewards)), result(*rewards))
    assert len(caught.value.failures) == rewards.count(None)


def test_zero_is_a_reward() -> None:
    assert rank(names(3), result(None, 0.0, -1.0)).best.index == 1


@pytest.mark.parametrize("num_candidates", [0, 1, 3])
def test_candidates_and_outcomes_must_be_as_many(num_candidates: int) -> None:
    with pytest.raises(ValueError, match="2 outcomes"):
        rank(names(num_candidates), result(1.0, 2.0))


def test_no_candidates_have_no_best() -> None:
    with pytest.raises(ValueError, match="no candidates"):
        rank([], result())


def test_a_ranking_is_immutable_and_survives_pickling() -> None:
    ranking = rank(names(2), result(1.0, 2.0))
    with pytest.raises(FrozenInstanceError):
        ranking.entries = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        ranking.best.index = 0  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(ranking)) == ranking


def test_any_scorer_will_do() -> None:
    assert best_of_n(Fixed(1.0, 3.0, 2.0), "Why?", names(3)).best.index == 1


def test_evidence_compares_each_candidate_with_the_best() -> None:
    fixed = Fixed(1.0, 3.0, None)
    ranking = best_of_n(fixed, "Why?", names(3), comparer=fixed)
    assert fixed.pairs == [(0, 1), (2, 1)]
    assert ranking.best.against_best is None
    assert [entry.against_best for entry in ranking.entries[1:]] == [Comparison(-1.0, 0.3)] * 2


def test_a_single_candidate_needs_no_evidence() -> None:
    fixed = Fixed(1.0)
    assert best_of_n(fixed, "Why?", names(1), comparer=fixed).best.index == 0
    assert fixed.pairs == []


def test_a_client_is_a_scorer_and_a_comparer(client: RewardClient) -> None:
    answers = ["so", "no", "because", "word " * 40_000]
    ranking = best_of_n(client, "Why?", answers, comparer=client)
    rewards = client.score("Why?", answers).rewards
    assert ranking.best.reward == max(reward for reward in rewards if reward is not None)
    assert ranking.entries[-1].index == 3
    assert [error.reason for error in ranking.failures] == ["INPUT_TOO_LONG"] * 2
    best = ranking.best.index
    for entry in ranking.entries[1:3]:
        (expected,) = client.compare("Why?", answers, [(entry.index, best)]).outcomes
        assert entry.against_best == expected


def test_evidence_that_cannot_be_had_costs_no_ranking(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    script.plan(good_scores, fail(grpc.StatusCode.NOT_FOUND, "UNKNOWN_TEMPLATE"))
    ranking = best_of_n(scripted_client, "Why?", ["a", "abc"], comparer=scripted_client)
    assert ranking.best.candidate == "abc"
    evidence = ranking.entries[1].against_best
    assert isinstance(evidence, Failure) and evidence.error.reason == "UNKNOWN_TEMPLATE"


def test_what_the_scorer_raises_is_raised(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    script.plan(fail(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry_after=3600.0))
    with pytest.raises(ServerUnavailable):
        best_of_n(scripted_client, "Why?", ["a"])


class Waiting(Fixed):
    """The same, without blocking."""

    async def score(self, prompt, candidates, **options) -> ScoreResult:
        return super().score(prompt, candidates, **options)

    async def compare(self, prompt, candidates, pairs, **options) -> CompareResult:
        return super().compare(prompt, candidates, pairs, **options)


@given(rewards=some_judged, with_evidence=st.booleans())
def test_without_blocking_the_ranking_is_the_same(rewards, with_evidence) -> None:
    candidates = names(len(rewards))
    blocking, waiting = Fixed(*rewards), Waiting(*rewards)
    ranking = best_of_n(
        blocking, "prompt", candidates, comparer=blocking if with_evidence else None
    )
    other = asyncio.run(
        async_best_of_n(waiting, "prompt", candidates, comparer=waiting if with_evidence else None)
    )
    assert [e.index for e in other.entries] == [e.index for e in ranking.entries]
    assert [e.against_best for e in other.entries] == [e.against_best for e in ranking.entries]
    assert waiting.pairs == blocking.pairs


def test_without_blocking_a_failed_comparison_is_evidence_missing_and_no_error() -> None:
    class Failing(Waiting):
        async def compare(self, prompt, candidates, pairs, **options) -> CompareResult:
            raise ServerUnavailable("down")

    scorer = Failing(1.0, 3.0, 2.0)
    ranking = asyncio.run(async_best_of_n(scorer, "prompt", names(3), comparer=scorer))
    assert ranking.best.index == 1
    assert all(isinstance(error, ServerUnavailable) for error in ranking.failures)
    assert len(ranking.failures) == 2
