"""Candidates are judged while others are generated, and the best of what there is wins."""

import asyncio
import math
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_reranker import (
    ErrorReason,
    NothingJudged,
    RequestRefused,
    ServerFault,
    ServerUnavailable,
)
from adjudge_reranker.generation import (
    ByRank,
    Finish,
    PolicyFault,
    PolicyRefused,
    StopReason,
    async_generate_best_of_n,
    generate_best_of_n,
)
from tests.reranker.generation.policies import HERE, AsyncTable, Listed, Table, Timed


class Sure:
    """Stops at a number of rewards, and remembers what it was shown."""

    max_risk = 0.25

    def __init__(self, at: int) -> None:
        self.at = at
        self.shown: list[tuple[list[float], int, int]] = []

    def risk(self, rewards, num_left, num_candidates) -> float:
        self.shown.append((list(rewards), num_left, num_candidates))
        return 0.125 if len(rewards) >= self.at else 1.0


def names(count: int) -> list[str]:
    return [f"answer {index}" for index in range(count)]


def table(*rewards: float | None, kind: type[Table] = Table) -> Table:
    return kind({f"answer {i}": r for i, r in enumerate(rewards) if r is not None})


outcomes = st.lists(
    st.tuples(
        st.sampled_from(["good", "failed", "nan", "not generated"]),
        st.integers(0, 5).map(float),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(planned=outcomes, chunk_size=st.integers(1, 5))
def test_the_highest_reward_wins_and_what_has_none_never_does(planned, chunk_size) -> None:
    contents = [
        PolicyFault("no text") if kind == "not generated" else f"answer {index}"
        for index, (kind, _) in enumerate(planned)
    ]
    scorer = table(
        *(
            None if kind == "failed" else math.nan if kind == "nan" else reward
            for kind, reward in planned
        )
    )
    policy = Listed(contents, chunk_size)
    judged = {i: reward for i, (kind, reward) in enumerate(planned) if kind == "good"}
    if not judged:
        with pytest.raises(NothingJudged):
            generate_best_of_n(scorer, policy, "prompt", len(planned))
        return
    selection = generate_best_of_n(scorer, policy, "prompt", len(planned))
    best = max(judged, key=lambda index: (judged[index], -index))
    assert selection.best.index == best
    assert selection.best.candidate == f"answer {best}"
    assert selection.best.reward == judged[best]
    assert selection.stop is StopReason.ALL_GENERATED
    assert selection.rewards == tuple(judged.get(index) for index in range(len(planned)))
    kinds = [kind for kind, _ in planned]
    assert selection.num_begun == len(planned)
    assert len(selection.generation_errors) == kinds.count("not generated")
    assert selection.num_generated == len(planned) - kinds.count("not generated")
    assert selection.num_scored == selection.num_generated
    assert len(selection.failures) == kinds.count("failed")
    assert selection.num_cancelled == 0


@given(letters=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
@settings(deadline=None)
def test_equal_candidates_are_scored_once(letters) -> None:
    scorer = Table({"a": 1.0, "b": 3.0, "c": 2.0})
    selection = generate_best_of_n(scorer, Listed(letters, 3), "prompt", len(letters))
    assert sorted(scorer.scored) == sorted(set(letters))
    assert selection.num_scored == len(set(letters))
    assert selection.best.index == letters.index(selection.best.candidate)
    for attempt in selection.attempts:
        first = letters.index(letters[attempt.index])
        assert attempt.duplicate_of == (None if first == attempt.index else first)
        assert attempt.reward == scorer.rewards[letters[attempt.index]]


def test_candidates_are_scored_while_the_next_are_generated() -> None:
    scored = threading.Event()

    class Signalling(Table):
        def score(self, prompt, candidates, **options):
            result = super().score(prompt, candidates, **options)
            scored.set()
            return result

    waited: list[bool] = []
    policy = Listed(names(2), before_each=lambda: waited.append(bool(scored.wait(0)) or later()))

    def later() -> bool:
        return len(waited) == 1 and scored.wait(20)

    scorer = Signalling({"answer 0": 1.0, "answer 1": 2.0})
    generate_best_of_n(scorer, policy, "prompt", 2)
    assert waited == [False, True]
    assert threading.get_ident() not in scorer.threads


def test_a_good_enough_reward_ends_generating_in_the_middle_of_a_chunk() -> None:
    has_begun_again, has_scored = threading.Event(), threading.Event()

    class Slow(Table):
        def score(self, prompt, candidates, **options):
            has_begun_again.wait(20)
            result = super().score(prompt, candidates, **options)
            has_scored.set()
            return result

    def generate() -> None:
        if policy.num_chunks == 2:
            has_begun_again.set()
            has_scored.wait(20)
            threading.Event().wait(0.1)  # until the future is done as well

    scorer = Slow({"answer 0": 1.0, "answer 1": 9.0})
    policy = Listed(names(4), chunk_size=2, before_each=generate)
    selection = generate_best_of_n(scorer, policy, "prompt", 4, good_enough=9.0)
    assert selection.stop is StopReason.GOOD_ENOUGH
    assert selection.best.candidate == "answer 1"
    assert policy.was_closed
    assert selection.num_begun == 4
    assert [a.is_cancelled for a in selection.attempts] == [False, False, True, True]
    assert selection.num_cancelled == 2
    assert scorer.scored == ["answer 0", "answer 1"]


def test_what_was_generated_before_the_choice_is_judged_and_may_win() -> None:
    async def run() -> None:
        policy = Timed([(0.0, "answer 0"), (0.0, "answer 1"), (60.0, "answer 2")])
        scorer = table(5.0, 7.0, kind=AsyncTable)
        selection = await async_generate_best_of_n(scorer, policy, "prompt", 3, good_enough=5.0)
        assert selection.stop is StopReason.GOOD_ENOUGH
        assert selection.best.candidate == "answer 1"
        assert policy.cancelled == [2]
        assert selection.num_cancelled == 1

    asyncio.run(asyncio.wait_for(run(), 20))


def test_the_rule_stops_and_its_risk_is_reported() -> None:
    rule = Sure(3)
    scorer = table(*map(float, range(9)))
    policy = Listed(names(9)).keeping_pace(scorer)
    selection = generate_best_of_n(scorer, policy, "prompt", 9, stopping=rule)
    assert selection.stop is StopReason.CLEAR
    assert selection.risk == 0.125
    assert selection.num_generated < 9
    assert selection.num_candidates == 9
    assert rule.shown[0][2] == 9
    assert rule.shown[-1][0][:3] == [0.0, 1.0, 2.0]


def test_the_rule_sees_candidates_in_the_order_of_asking_and_waits_for_gaps() -> None:
    async def run() -> None:
        # The quick ones, such as short answers, are no random draw: they must not speak early.
        seconds = [0.15, 0.0, 0.0, 0.0, 60.0]
        policy = Timed(list(zip(seconds, names(5), strict=True)))
        rule = Sure(4)
        scorer = table(1.0, 2.0, 3.0, 4.0, kind=AsyncTable)
        selection = await async_generate_best_of_n(scorer, policy, "prompt", 8, stopping=rule)
        assert selection.stop is StopReason.CLEAR
        assert rule.shown == [([1.0, 2.0, 3.0, 4.0], 4, 8)]

    asyncio.run(run())


def test_candidates_without_a_reward_are_no_evidence() -> None:
    rule = Sure(99)
    contents = ["answer 0", PolicyFault("no text"), "answer 2", "answer 3", "answer 4"]
    scorer = table(1.0, None, None, math.nan, 2.0)
    generate_best_of_n(scorer, Listed(contents, 5), "prompt", 8, stopping=rule)
    assert rule.shown[-1] == ([1.0, 2.0], 3, 8)


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.FILTERED])
def test_a_cut_off_answer_is_kept_but_neither_judged_nor_chosen(finish) -> None:
    scorer = table(9.0)
    policy = Listed(names(1), finish=finish)
    with pytest.raises(NothingJudged, match=f"finish: {finish}"):
        generate_best_of_n(scorer, policy, "prompt", 1)
    assert scorer.calls == []


def test_the_user_may_allow_answers_that_were_cut_off_but_not_those_that_were_filtered() -> None:
    policy = Listed(names(1), finish=Finish.LENGTH)
    selection = generate_best_of_n(table(9.0), policy, "prompt", 1, allow_truncated=True)
    assert selection.best.candidate == "answer 0"
    assert selection.attempts[0].finish is Finish.LENGTH
    policy = Listed(names(1), finish=Finish.FILTERED)
    with pytest.raises(NothingJudged):
        generate_best_of_n(table(9.0), policy, "prompt", 1, allow_truncated=True)


def test_a_call_that_failed_is_the_failure_of_its_candidates() -> None:
    class Flaky(Table):
        def score(self, prompt, candidates, **options):
            if "answer 0" in candidates:
                raise ServerUnavailable("down")
            return super().score(prompt, candidates, **options)

    scorer = Flaky({"answer 1": -5.0})
    selection = generate_best_of_n(scorer, Listed(names(2)), "prompt", 2)
    assert selection.best.candidate == "answer 1"
    assert selection.rewards == (None, -5.0)
    assert isinstance(selection.failures[0], ServerUnavailable)


def test_nothing_generated_is_nothing_judged_and_says_why() -> None:
    policy = Listed([PolicyRefused("no such model", status=404), PolicyFault("no text")])
    with pytest.raises(NothingJudged, match="PolicyFault, PolicyRefused") as caught:
        generate_best_of_n(table(), policy, "prompt", 2)
    assert isinstance(caught.value.__cause__, PolicyRefused)


def test_a_policy_may_give_fewer_than_were_asked_for() -> None:
    selection = generate_best_of_n(table(1.0, 2.0), Listed(names(2)), "prompt", 5)
    assert selection.stop is StopReason.POLICY_ENDED
    assert selection.num_begun == 2


def test_rewards_of_two_models_are_never_ranked_together() -> None:
    def provenance(num_calls: int):
        return replace(HERE, model_fingerprint=f"print {num_calls}")

    scorer = Table({"answer 0": 1.0, "answer 1": 2.0}, provenance)
    with pytest.raises(ServerFault, match="model_fingerprint"):
        generate_best_of_n(scorer, Listed(names(2)), "prompt", 2)


def test_candidates_are_scored_again_when_the_weights_have_moved() -> None:
    class Moving(Table):
        """The new weights think the opposite."""

        def score(self, prompt, candidates, **options):
            epoch = 1 if not self.calls else 2
            self.provenance = replace(HERE, weights_epoch=epoch)
            self.rewards = {"answer 0": 9.0} if epoch == 1 else {"answer 0": 1.0, "answer 1": 2.0}
            return super().score(prompt, candidates, **options)

    scorer = Moving({})
    policy = Listed(names(2)).keeping_pace(scorer)
    selection = generate_best_of_n(scorer, policy, "prompt", 2)
    assert selection.rewards == (1.0, 2.0)
    assert selection.best.candidate == "answer 1"
    assert {p.weights_epoch for p in selection.provenances} == {2}
    assert scorer.scored == ["answer 0", "answer 1", "answer 0"]


def test_weights_that_never_rest_are_a_failure_and_not_a_loop() -> None:
    def flapping(num_calls: int):
        return replace(HERE, weights_epoch=1 + num_calls % 2)

    scorer = Table({"answer 0": 1.0, "answer 1": 2.0}, flapping)
    policy = Listed(names(2)).keeping_pace(scorer)
    try:
        selection = generate_best_of_n(scorer, policy, "prompt", 2)
    except NothingJudged as error:
        failures = error.failures
    else:
        failures = selection.failures
        assert len({p.weights_epoch for p in selection.provenances}) == 1
    assert len(scorer.calls) <= 9
    for failure in failures:
        assert isinstance(failure, RequestRefused)
        assert failure.reason is ErrorReason.WRONG_EPOCH


def test_a_bug_in_the_scorer_is_raised_and_the_policy_closed() -> None:
    class Broken(Table):
        def score(self, prompt, candidates, **options):
            raise TypeError("a bug")

    policy = Listed(names(50), before_each=lambda: threading.Event().wait(0.02))
    with pytest.raises(TypeError, match="a bug"):
        generate_best_of_n(Broken({}), policy, "prompt", 50)
    assert policy.was_closed
    assert policy.num_chunks < 50


def test_too_few_outcomes_are_an_error_and_not_shifted_rewards() -> None:
    class Short(Table):
        def score(self, prompt, candidates, **options):
            result = super().score(prompt, candidates, **options)
            return replace(result, outcomes=result.outcomes[1:])

    scorer = Short({"answer 0": 1.0, "answer 1": 2.0})
    with pytest.raises(ValueError, match="1 outcomes for 2 candidates"):
        generate_best_of_n(scorer, Listed(names(2), 2), "prompt", 2)


def test_cancelling_the_caller_cancels_generating_and_scoring() -> None:
    async def run() -> None:
        ended: list[str] = []

        class Endless(AsyncTable):
            async def score(self, prompt, candidates, **options):
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.append("scoring")

        policy = Timed([(0.0, "answer 0"), (60.0, "answer 1")])
        running = asyncio.create_task(async_generate_best_of_n(Endless({}), policy, "prompt", 2))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended == ["scoring"]
        assert policy.cancelled == [1]

    asyncio.run(asyncio.wait_for(run(), 20))


@settings(deadline=None, max_examples=30)
@given(planned=st.lists(st.none() | st.integers(0, 5).map(float), min_size=1, max_size=8))
def test_blocking_and_not_they_choose_the_same(planned) -> None:
    contents = names(len(planned))

    async def run():
        policy = Timed([(0.0, content) for content in contents])
        scorer = table(*planned, kind=AsyncTable)
        return await async_generate_best_of_n(scorer, policy, "prompt", len(planned))

    if all(reward is None for reward in planned):
        with pytest.raises(NothingJudged):
            asyncio.run(run())
        return
    selection = generate_best_of_n(table(*planned), Listed(contents), "prompt", len(planned))
    other = asyncio.run(run())
    assert (other.best, other.rewards) == (selection.best, selection.rewards)


def test_wrong_numbers_are_refused_before_anything_is_generated() -> None:
    for options in ({"num_candidates": 0}, {"num_candidates": 1, "good_enough": math.nan}):
        policy = Listed(names(1))
        with pytest.raises(ValueError):
            generate_best_of_n(table(1.0), policy, "prompt", **options)
        assert policy.num_chunks == 0


def test_by_rank_needs_no_more_than_its_share() -> None:
    scorer = table(*map(float, range(10)))
    policy = Listed(names(10)).keeping_pace(scorer)
    selection = generate_best_of_n(scorer, policy, "prompt", 10, stopping=ByRank(0.3))
    assert selection.stop is StopReason.CLEAR
    assert 7 <= selection.num_generated < 10


def test_a_text_that_cannot_be_sent_is_a_fault_of_the_policy() -> None:
    selection = generate_best_of_n(
        table(None, 1.0), Listed(["half a \ud83d", "answer 1"]), "prompt", 2
    )
    assert selection.best.candidate == "answer 1"
    assert isinstance(selection.generation_errors[0], PolicyFault)
