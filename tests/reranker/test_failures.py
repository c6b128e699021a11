"""What the client makes of a server that fails, is slow, or does not keep to the contract."""

import threading
import time

import grpc
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import (
    DeadlineExceeded,
    Failure,
    RequestRefused,
    RetryPolicy,
    RewardClient,
    ServerFault,
    ServerUnavailable,
)
from tests.reranker.scripted import (
    ScriptedService,
    answer,
    busy,
    comparison,
    fail,
    good_scores,
    reward,
    status,
)


def test_a_busy_server_is_asked_again(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    script.plan(busy(), busy(retry_after=0.01), busy())
    assert scripted_client.score("Why?", ["abc"]).rewards == (3.0,)
    assert len(script.requests) == 4


@pytest.mark.parametrize("num_bytes", [100_000, 300_000, 3_000_000])
def test_large_requests_are_repeated_too(
    script: ScriptedService, scripted_client: RewardClient, num_bytes: int
) -> None:
    """gRPC's own retries, which are off, leave out those over 256 KiB."""
    script.plan(busy())
    assert scripted_client.score("Why?", ["x" * num_bytes]).rewards == (float(num_bytes),)
    assert len(script.requests) == 2


def test_every_attempt_gets_what_is_left_of_the_deadline(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    script.plan(busy(retry_after=0.4), busy(retry_after=0.4))
    scripted_client.score("Why?", ["abc"], timeout=4.0)
    first, second, third = (deadline or 0.0 for deadline in script.deadlines)
    # gRPC rounds deadlines up, by up to 3 %, on their way to the server.
    assert second < first - 0.4 + 0.03 * 4
    assert 0 < third < second - 0.4 + 0.03 * 4


def test_the_timeout_is_60_seconds_unless_given_and_none_is_no_limit(
    script: ScriptedService,
) -> None:
    with RewardClient(script.address) as client:
        client.model()
        client.model(timeout=None)
    with RewardClient(script.address, timeout=None) as client:
        client.model()
    default, unlimited, unlimited_too = script.deadlines
    assert default is not None and 50 < default <= 62
    # The sync server says "no deadline" with a number of seconds that no caller lives to see.
    assert all(limit is None or limit > 1e12 for limit in (unlimited, unlimited_too))


def test_a_server_that_asks_for_more_time_than_is_left_is_not_waited_for(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    script.plan(busy(retry_after=3600.0))
    with pytest.raises(ServerUnavailable) as caught:
        scripted_client.score("Why?", ["abc"], timeout=5.0)
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_seconds == 3600.0
    assert len(script.requests) == 1


def test_attempts_can_be_limited(script: ScriptedService) -> None:
    script.plan(*[busy()] * 5)
    with (
        RewardClient(script.address, retry=RetryPolicy(0.0, 0.0, max_attempts=3)) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.score("Why?", ["abc"])
    assert len(script.requests) == 3


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code.name not in ("OK", "UNAVAILABLE")]
)
def test_nothing_but_unavailable_is_repeated(
    script: ScriptedService, scripted_client: RewardClient, code: grpc.StatusCode
) -> None:
    script.plan(fail(code))
    with pytest.raises(Exception) as caught:
        scripted_client.score("Why?", ["abc"])
    assert caught.value.code is code  # type: ignore[attr-defined]
    assert len(script.requests) == 1


def test_a_server_that_is_not_there_is_unavailable() -> None:
    policy = RetryPolicy(max_attempts=2)
    with RewardClient("127.0.0.1:1", retry=policy) as client, pytest.raises(ServerUnavailable):
        client.score("Why?", ["abc"])


def test_a_slow_server_exceeds_the_deadline(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    release = threading.Event()
    script.plan(lambda request, context: release.wait(20) and good_scores(request, context))
    try:
        with pytest.raises(DeadlineExceeded):
            scripted_client.score("Why?", ["abc"], timeout=0.2)
    finally:
        release.set()


@pytest.mark.parametrize("num_outcomes", [0, 1, 3])
def test_a_wrong_number_of_outcomes_is_the_servers_fault(
    script: ScriptedService, scripted_client: RewardClient, num_outcomes: int
) -> None:
    script.plan(
        answer(pb.ScoreCandidatesResponse(outcomes=[reward(1.0)] * num_outcomes)),
        answer(pb.CompareCandidatesResponse(outcomes=[comparison(1.0)] * num_outcomes)),
    )
    with pytest.raises(ServerFault, match=f"{num_outcomes} outcomes for 2 candidates"):
        scripted_client.score("Why?", ["a", "b"])
    with pytest.raises(ServerFault, match=f"{num_outcomes} outcomes for 2 pairs"):
        scripted_client.compare("Why?", ["a", "b"], [(0, 1), (1, 0)])


@pytest.mark.parametrize(
    "outcome",
    [reward(None), reward(float("nan")), reward(float("inf")), pb.ScoreOutcome()],
    ids=["unset", "nan", "inf", "empty"],
)
def test_what_is_not_a_number_is_a_failure_and_not_a_reward(
    script: ScriptedService, scripted_client: RewardClient, outcome: pb.ScoreOutcome
) -> None:
    script.plan(answer(pb.ScoreCandidatesResponse(outcomes=[outcome, reward(0.0)])))
    result = scripted_client.score("Why?", ["a", "b"])
    assert result.rewards == (None, 0.0)
    failure = result.outcomes[0]
    assert isinstance(failure, Failure) and isinstance(failure.error, ServerFault)


@pytest.mark.parametrize(
    "outcome",
    [
        pb.CompareOutcome(),
        pb.CompareOutcome(comparison=pb.Comparison()),
        pb.CompareOutcome(comparison=pb.Comparison(margin=1.0)),
        comparison(float("nan")),
    ],
    ids=["empty", "unset", "without a preference", "nan"],
)
def test_what_is_not_a_number_is_a_failure_and_not_a_tie(
    script: ScriptedService, scripted_client: RewardClient, outcome: pb.CompareOutcome
) -> None:
    script.plan(answer(pb.CompareCandidatesResponse(outcomes=[outcome])))
    result = scripted_client.compare("Why?", ["a", "b"], [(0, 1)])
    assert result.margins == (None,) and result.preferences == (None,)


def test_numbers_that_were_not_sent_are_none(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    (outcome,) = scripted_client.score("Why?", ["a"]).outcomes
    assert not isinstance(outcome, Failure)
    assert outcome.mode is None and outcome.standard_deviation is None
    assert outcome.valid_mass is None and outcome.opening_mass is None
    assert scripted_client.model().noise_floor is None


def test_an_items_error_is_typed_like_a_calls(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    failed = status(grpc.StatusCode.FAILED_PRECONDITION, "OFF_FORMAT", valid_mass="0.001")
    script.plan(answer(pb.ScoreCandidatesResponse(outcomes=[pb.ScoreOutcome(error=failed)])))
    (outcome,) = scripted_client.score("Why?", ["a"]).outcomes
    assert isinstance(outcome, Failure)
    assert type(outcome.error).__name__ == "CriticUnreadable"
    assert outcome.error.metadata == {"valid_mass": "0.001"}


def test_messages_up_to_the_limit_pass_both_ways(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    """gRPC's own limit would be 4 MiB."""
    large = pb.GetModelResponse(model=pb.Model(name="x" * 10_000_000))
    script.plan(answer(large))
    assert len(scripted_client.model().name) == 10_000_000
    assert scripted_client.score("Why?", ["x" * 10_000_000]).rewards == (1e7,)


def test_a_message_over_the_limit_is_refused_and_not_repeated(script: ScriptedService) -> None:
    large = pb.GetModelResponse(model=pb.Model(name="x" * 2_000_000))
    script.plan(answer(large))
    with RewardClient(script.address, max_message_bytes=1_000_000) as client:
        with pytest.raises(RequestRefused) as received:
            client.model()
        with pytest.raises(RequestRefused) as sent:
            client.score("Why?", ["x" * 2_000_000])
    for caught in (received, sent):
        assert caught.value.reason == "LIMIT_EXCEEDED"
        assert caught.value.metadata["limit"] == "max_message_bytes"
        assert caught.value.metadata["maximum"] == "1000000"
    assert len(script.requests) == 1


def test_a_critique_is_repeated_until_its_first_event(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    script.plan(busy(), busy())
    assert len(list(scripted_client.critique("Why?", ["a"]))) == 4
    assert len(script.requests) == 3


def test_a_critique_is_not_repeated_after_its_first_event(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    def breaks(request, context):
        yield pb.CritiqueCandidatesResponse(text="well")
        busy()(request, context)

    script.plan(breaks)
    events = scripted_client.critique("Why?", ["a"])
    next(events)
    with pytest.raises(ServerUnavailable):
        next(events)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "broke off with 0 of 2"),
        ([pb.CritiqueCandidatesResponse(provenance=pb.Provenance())], "broke off with 0 of 2"),
        ([pb.CritiqueCandidatesResponse(index=2, text="x")], "item 2 of 2"),
        ([pb.CritiqueCandidatesResponse(reward=pb.Reward(reward=1.0))] * 2, "two verdicts"),
        (
            [
                pb.CritiqueCandidatesResponse(index=i, reward=pb.Reward(reward=1.0))
                for i in range(2)
            ],
            "broke off with 2 of 2",
        ),
    ],
)
def test_a_critique_that_is_not_whole_is_the_servers_fault(
    script: ScriptedService,
    scripted_client: RewardClient,
    messages: list[pb.CritiqueCandidatesResponse],
    complaint: str,
) -> None:
    script.plan(lambda request, context: iter(messages))
    with pytest.raises(ServerFault, match=complaint):
        list(scripted_client.critique("Why?", ["a", "b"]))


def test_an_event_newer_than_the_client_is_passed_over(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    def with_news(request, context):
        yield pb.CritiqueCandidatesResponse(index=0)
        yield pb.CritiqueCandidatesResponse(reward=pb.Reward(reward=1.0))
        yield pb.CritiqueCandidatesResponse(provenance=pb.Provenance())

    script.plan(with_news)
    assert len(list(scripted_client.critique("Why?", ["a"]))) == 2


def test_leaving_a_critique_cancels_it_at_the_server(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    cancelled = threading.Event()

    def endless(request, context):
        context.add_callback(cancelled.set)
        while context.is_active():
            yield pb.CritiqueCandidatesResponse(text="and ")
            time.sleep(0.01)

    script.plan(endless)
    events = scripted_client.critique("Why?", ["a"])
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert cancelled.wait(10)


def test_closing_the_client_ends_calls_in_progress(script: ScriptedService) -> None:
    started, release = threading.Event(), threading.Event()

    def hang(request, context):
        started.set()
        release.wait(20)
        return good_scores(request, context)

    script.plan(hang)
    client = RewardClient(script.address)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            client.score("Why?", ["a"])
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert started.wait(10)
    client.close()
    thread.join(10)
    release.set()
    assert len(caught) == 1 and isinstance(caught[0], ServerUnavailable)
