"""Requests over a server's limits go in parts, and come back as if they had gone in one."""

import asyncio
import signal
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from google.protobuf import duration_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import (
    AdminClient,
    AsyncRewardClient,
    Failure,
    Limits,
    OrderPolicy,
    Readout,
    RequestRefused,
    RetryPolicy,
    RewardClient,
    ServerFault,
    encode,
    to_image,
)
from adjudge_reranker.parts import COMPARE, SCORE
from tests.reranker.scripted import ScriptedService, answer, busy, fail, good_scores, serving

CANDIDATES = [f"answer {number}" for number in range(23)]
PAIRS = [(number, (number * 7 + 1) % 23) for number in range(23)]
TOO_LONG = "word " * 40_000


@pytest.fixture(scope="module")
def narrow(launch) -> str:
    """Where a server listens that takes little at a time."""
    server = launch(critic="fake", max_candidates=4, max_pairs=3)
    return f"127.0.0.1:{server.port}"


def limits(max_candidates: int, max_pairs: int, max_message_bytes: int) -> Limits:
    return Limits(max_message_bytes, 0, 0, max_candidates, max_pairs, 0, 0, 0, 0, None)


def test_more_candidates_than_the_server_takes_are_scored_in_order(
    narrow: str, client: RewardClient
) -> None:
    whole = client.score("Why?", CANDIDATES)
    with RewardClient(narrow) as narrow_client:
        for _ in range(2):  # the limits are known the second time
            result = narrow_client.score("Why?", CANDIDATES)
            assert result.rewards == pytest.approx(whole.rewards, abs=1e-9)
    assert result.provenance.input_tokens == whole.provenance.input_tokens
    assert result.provenance.model_fingerprint == whole.provenance.model_fingerprint


def test_more_pairs_than_the_server_takes_are_compared_in_order(
    narrow: str, client: RewardClient
) -> None:
    whole = client.compare("Why?", CANDIDATES, PAIRS)
    with RewardClient(narrow) as narrow_client:
        result = narrow_client.compare("Why?", CANDIDATES, PAIRS)
    assert result.margins == pytest.approx(whole.margins, abs=1e-9)


def test_the_asyncio_client_does_the_same(narrow: str, client: RewardClient) -> None:
    async def ask() -> tuple:
        async with AsyncRewardClient(narrow) as narrow_client:
            return (
                (await narrow_client.score("Why?", CANDIDATES)).rewards,
                (await narrow_client.compare("Why?", CANDIDATES, PAIRS)).margins,
            )

    rewards, margins = asyncio.run(ask())
    assert rewards == pytest.approx(client.score("Why?", CANDIDATES).rewards, abs=1e-9)
    assert margins == pytest.approx(client.compare("Why?", CANDIDATES, PAIRS).margins, abs=1e-9)


def test_a_failed_items_field_is_that_of_the_whole_request(narrow: str) -> None:
    candidates = [*CANDIDATES[:10], TOO_LONG, *CANDIDATES[10:]]
    with RewardClient(narrow) as client:
        (error,) = client.score("Why?", candidates).failures
        assert error.reason == "INPUT_TOO_LONG" and error.field == "candidates[10]"
        pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 10)]
        result = client.compare("Why?", candidates, pairs)
    assert [margin is None for margin in result.margins] == [False] * 4 + [True]
    failure = result.outcomes[4]
    assert isinstance(failure, Failure)
    assert failure.error.field in {"candidates[10]", "pairs[4]"}


def test_what_is_wrong_with_the_whole_request_is_raised(narrow: str) -> None:
    with RewardClient(narrow) as client, pytest.raises(RequestRefused) as caught:
        client.score("Why?", CANDIDATES, template="no such template")
    assert caught.value.reason == "UNKNOWN_TEMPLATE"


def test_a_message_over_the_servers_limit_is_sent_in_parts(launch) -> None:
    server = launch(critic="fake", max_message_bytes=200_000)
    pictures = [
        to_image(np.random.default_rng(seed).integers(0, 255, (64, 64), np.uint8).astype(np.uint8))
        for seed in range(40)
    ]
    texts = [f"{number} " + "x" * 20_000 for number in range(40)]
    with RewardClient(f"127.0.0.1:{server.port}") as client:
        assert None not in client.score([pictures[0], "Why?"], texts).rewards
        result = client.score([pictures[0], "Why?"], [*texts, "x" * 300_000])
    # One candidate alone is over the limit: nothing can be done for it, and nothing befalls others.
    assert [reward is None for reward in result.rewards] == [False] * 40 + [True]


# -- the parts themselves


texts = st.lists(st.text(max_size=30), min_size=1, max_size=30)


@given(texts=texts, most=st.integers(1, 5), num_bytes=st.integers(300, 2000))
def test_parts_of_scores_are_the_candidates_in_order_within_the_limits(
    texts: list[str], most: int, num_bytes: int
) -> None:
    draft = encode.score_draft(
        "Why?",
        texts,
        template=None,
        reference=None,
        rubric="be kind",
        model=None,
        expected_epoch=None,
        readout=Readout.DIRECT,
        include_distribution=False,
    )
    parts = SCORE.split(draft, limits(most, 0, num_bytes), 2**20)
    sent = [part.draft.request() for part in parts]
    assert [c.parts[0].text for request in sent for c in request.candidates] == texts
    assert [part.num_items for part in parts] == [len(request.candidates) for request in sent]
    assert [index for part in parts for index in part.candidates] == list(range(len(texts)))
    for request in sent:
        assert len(request.candidates) <= most
        assert request.ByteSize() <= num_bytes or len(request.candidates) == 1
        assert request.rubric == "be kind" and request.prompt[0].parts[0].text == "Why?"


@given(data=st.data(), texts=st.lists(st.text(max_size=30), min_size=2, max_size=12))
def test_parts_of_comparisons_are_the_pairs_in_order_within_the_limits(
    data: st.DataObject, texts: list[str]
) -> None:
    index = st.integers(0, len(texts) - 1)
    pairs = data.draw(st.lists(st.tuples(index, index), min_size=1, max_size=30))
    most_candidates, most_pairs = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 6))
    num_bytes = data.draw(st.integers(600, 3000))
    draft = encode.compare_draft(
        "Why?",
        texts,
        pairs,
        template=None,
        reference=None,
        rubric=None,
        model=None,
        expected_epoch=None,
        readout=Readout.DIRECT,
        order_policy=OrderPolicy.AS_GIVEN,
    )
    parts = COMPARE.split(draft, limits(most_candidates, most_pairs, num_bytes), 2**20)
    meant = []
    for part in parts:
        request = part.draft.request()
        assert len(request.pairs) == part.num_items <= most_pairs
        assert len(request.candidates) <= most_candidates
        assert request.ByteSize() <= num_bytes or part.num_items == 1
        assert request.order_policy == pb.ORDER_POLICY_AS_GIVEN
        meant += [
            tuple(request.candidates[i].parts[0].text for i in (pair.first, pair.second))
            for pair in request.pairs
        ]
        assert [texts[i] for i in part.candidates] == [
            candidate.parts[0].text for candidate in request.candidates
        ]
    assert meant == [(texts[first], texts[second]) for first, second in pairs]


# -- servers that the test plans


class Narrow:
    """Steps of a server that takes two candidates at a time, and tells who asked what."""

    def __init__(self, script: ScriptedService) -> None:
        self._script = script
        self.epoch = 0
        self.fingerprint = "one"
        self.steps: dict[str, list] = {}
        """By first candidate."""
        self._lock = threading.Lock()
        self.told = [2]
        """What it says that it takes; the last is repeated."""
        script._step = self.step  # type: ignore[method-assign]

    def step(self, request, context, otherwise):
        if isinstance(request, pb.ScoreCandidatesRequest):
            return self.score(request, context)
        most = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        return pb.GetModelResponse(model=pb.Model(limits=pb.Limits(max_candidates=most)))

    def score(self, request, context):
        if len(request.candidates) > 2:
            return fail(grpc.StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED", limit="max_candidates")(
                request, context
            )
        with self._lock:
            self._script.requests.append(request)
            steps = self.steps.get(request.candidates[0].parts[0].text)
            step = steps.pop(0) if steps else self.good
        return step(request, context)

    def good(self, request, context):
        if request.HasField("expected_epoch") and request.expected_epoch != self.epoch:
            return fail(
                grpc.StatusCode.FAILED_PRECONDITION,
                "WRONG_EPOCH",
                expected=str(request.expected_epoch),
                actual=str(self.epoch),
            )(request, context)
        response = good_scores(request, context)
        for outcome in response.outcomes:
            outcome.reward.reward += 100.0 * self.epoch
        response.provenance.weights_epoch = self.epoch
        response.provenance.model_fingerprint = self.fingerprint
        response.provenance.total_duration.CopyFrom(duration_pb2.Duration(seconds=1))
        response.provenance.input_tokens = 10
        return response

    def moved_to(self, epoch: int):
        def step(request, context):
            self.epoch = epoch
            return self.good(request, context)

        return step

    def as_of(self, epoch: int):
        def step(request, context):
            now, self.epoch = self.epoch, epoch
            try:
                return self.good(request, context)
            finally:
                self.epoch = now

        return step


@pytest.fixture
def plan(script: ScriptedService) -> Narrow:
    return Narrow(script)


SIX = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff"]
QUIET = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def test_provenance_adds_tokens_and_takes_the_longest_time(
    plan: Narrow, scripted_client: RewardClient
) -> None:
    result = scripted_client.score("Why?", SIX)
    assert result.rewards == QUIET
    assert result.provenance.input_tokens == 30 and result.provenance.total_seconds == 1.0


def test_one_parts_failure_is_that_of_its_candidates(
    plan: Narrow, scripted_client: RewardClient
) -> None:
    plan.steps["ccc"] = [fail(grpc.StatusCode.INTERNAL, "CRITIC_FAILURE")]
    result = scripted_client.score("Why?", SIX)
    assert result.rewards == (1.0, 2.0, None, None, 5.0, 6.0)
    assert [type(error) for error in result.failures] == [ServerFault, ServerFault]


def test_where_every_part_fails_the_call_fails(plan: Narrow, scripted_client: RewardClient) -> None:
    for first in ("a", "ccc", "eeeee"):
        plan.steps[first] = [fail(grpc.StatusCode.INTERNAL, "CRITIC_FAILURE", field=first)]
    with pytest.raises(ServerFault) as caught:
        scripted_client.score("Why?", SIX)
    assert caught.value.field == "a"


def test_a_busy_server_is_asked_again_for_the_part_only(
    plan: Narrow, script: ScriptedService, scripted_client: RewardClient
) -> None:
    plan.steps["ccc"] = [busy(), busy()]
    assert scripted_client.score("Why?", SIX).rewards == QUIET
    assert len(script.requests) == 5


def test_parts_of_an_older_epoch_are_asked_again(
    plan: Narrow, script: ScriptedService, scripted_client: RewardClient
) -> None:
    plan.epoch = 1
    plan.steps["a"] = [plan.as_of(0)]
    result = scripted_client.score("Why?", SIX)
    assert result.rewards == tuple(100.0 + value for value in QUIET)
    assert result.provenance.weights_epoch == 1
    (again,) = [request for request in script.requests if request.HasField("expected_epoch")]
    assert again.expected_epoch == 1 and again.candidates[0].parts[0].text == "a"


def test_weights_that_move_while_parts_are_asked_again_move_the_rest_too(
    plan: Narrow, scripted_client: RewardClient
) -> None:
    plan.epoch = 1
    plan.steps["a"] = [plan.as_of(0), plan.moved_to(2)]
    result = scripted_client.score("Why?", SIX)
    assert result.rewards == tuple(200.0 + value for value in QUIET)
    assert result.provenance.weights_epoch == 2


def test_what_an_older_server_judged_is_a_failure_and_never_mixed_in(
    plan: Narrow, scripted_client: RewardClient
) -> None:
    """A server that restarted has lost its epoch, and will not get there again."""
    plan.steps["a"] = [plan.as_of(3)]
    result = scripted_client.score("Why?", SIX)
    assert result.rewards == (301.0, 302.0, None, None, None, None)
    assert {error.reason for error in result.failures} == {"WRONG_EPOCH"}
    assert result.provenance.weights_epoch == 3


def test_weights_that_never_stand_still_end_in_typed_failures(
    plan: Narrow, scripted_client: RewardClient
) -> None:
    for first in ("a", "ccc", "eeeee"):
        plan.steps[first] = [lambda r, c: plan.moved_to(plan.epoch + 1)(_unbound(r), c)] * 100
    result = scripted_client.score("Why?", SIX)
    judged = [value for value in result.rewards if value is not None]
    assert judged and len({value // 100 for value in judged}) == 1
    assert {error.reason for error in result.failures} == {"WRONG_EPOCH"}


def _unbound(request: pb.ScoreCandidatesRequest) -> pb.ScoreCandidatesRequest:
    request.ClearField("expected_epoch")
    return request


def test_a_callers_own_epoch_is_that_of_every_part(
    plan: Narrow, script: ScriptedService, scripted_client: RewardClient
) -> None:
    plan.epoch = 1
    assert scripted_client.score("Why?", SIX, expected_epoch=1).provenance.weights_epoch == 1
    plan.steps["a"] = [plan.moved_to(2)]
    with pytest.raises(RequestRefused) as caught:
        scripted_client.score("Why?", SIX, expected_epoch=0)
    assert caught.value.reason == "WRONG_EPOCH"
    assert all(request.HasField("expected_epoch") for request in script.requests)


@pytest.mark.parametrize("kind", [RewardClient, AsyncRewardClient])
def test_different_models_in_one_result_are_an_error_and_never_a_mix(
    plan: Narrow, kind: type
) -> None:
    def other_model(request, context):
        response = plan.good(request, context)
        response.provenance.model_fingerprint = "another"
        return response

    plan.steps["ccc"] = [other_model]
    script = plan._script

    async def ask() -> None:
        async with AsyncRewardClient(script.address) as client:
            await client.score("Why?", SIX)

    with pytest.raises(ServerFault, match="different models") as caught:
        if kind is AsyncRewardClient:
            asyncio.run(ask())
        else:
            with RewardClient(script.address) as client:
                client.score("Why?", SIX)
    assert {caught.value.metadata["expected"], caught.value.metadata["actual"]} == {
        "one",
        "another",
    }


def test_a_server_that_takes_less_than_before_is_asked_for_its_limits_again(
    plan: Narrow, scripted_client: RewardClient
) -> None:
    plan.told = [4, 2]
    assert scripted_client.score("Why?", SIX).rewards == (None, None, None, None, 5.0, 6.0)
    assert scripted_client.score("Why?", SIX).rewards == QUIET


def test_a_refusal_that_parts_would_not_help_is_raised(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    refused = fail(grpc.StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED", limit="max_images")
    script.plan(refused)
    with pytest.raises(RequestRefused) as caught:
        scripted_client.score("Why?", SIX)
    assert caught.value.reason == "LIMIT_EXCEEDED"
    assert len(script.requests) == 1


INTERRUPTED = """
import signal, sys
from adjudge_reranker import RewardClient

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
RewardClient(sys.argv[1], timeout=None).score("Why?", list("abcdef"))
"""


def test_an_interrupt_ends_the_parts_under_way(script: ScriptedService) -> None:
    release = threading.Event()

    def hang(request, context):
        release.wait(30)
        return good_scores(request, context)

    script.plan(
        fail(grpc.StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED", limit="max_candidates"),
        answer(pb.GetModelResponse(model=pb.Model(limits=pb.Limits(max_candidates=2)))),
        hang,
        hang,
        busy(retry_after=3600.0),  # so that one part pauses, without an end in sight
    )
    command = [sys.executable, "-c", INTERRUPTED, script.address]
    try:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while len(script.requests) < 5:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(10) == -signal.SIGINT
            finally:
                process.kill()
    finally:
        release.set()


@settings(deadline=None, max_examples=5)
@given(num_moves=st.integers(1, 3))
def test_one_result_is_the_work_of_one_epoch_while_weights_move(num_moves: int) -> None:
    with serving() as script:
        plan = Narrow(script)
        plan.steps["ccc"] = [plan.moved_to(epoch) for epoch in range(1, num_moves + 1)]
        with RewardClient(script.address, retry=RetryPolicy(0.0, 0.0)) as client:
            result = client.score("Why?", SIX)
    epoch = result.provenance.weights_epoch
    for value, quiet in zip(result.rewards, QUIET, strict=True):
        assert value is None or value == quiet + 100 * epoch


def test_a_real_servers_weights_may_move_between_the_parts(launch, tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    server = launch(critic="fake", max_candidates=2, enable_admin=True, weights_dir=(tmp_path,))
    address = f"127.0.0.1:{server.port}"
    candidates = [f"answer {number}" for number in range(200)]
    stop = threading.Event()

    def move() -> None:
        with AdminClient(address) as admin:
            while not stop.wait(0.1):
                for name in ("one", "two"):
                    admin.load_weights(tmp_path / name)

    with RewardClient(address) as client, AdminClient(address) as admin:
        true: dict[str, tuple] = {}
        for name in ("one", "two"):
            fingerprint = admin.load_weights(tmp_path / name).fingerprint
            true[fingerprint] = client.score("Why?", candidates).rewards
        mover = threading.Thread(target=move)
        mover.start()
        try:
            results = [client.score("Why?", candidates) for _ in range(5)]
        finally:
            stop.set()
            mover.join()
    assert len(set(true.values())) == 2
    for result in results:
        expected = true[result.provenance.model_fingerprint]
        for value, right in zip(result.rewards, expected, strict=True):
            assert value is None or value == pytest.approx(right, abs=1e-9)
        assert {error.reason for error in result.failures} <= {"WRONG_EPOCH"}
