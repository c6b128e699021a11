"""What fails, and what callers and health checks are told of it: through real servers, whose fake
critic fails as it is told to."""

import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server import vitals
from adjudge_server.critic import Reading, Written
from adjudge_server.critics.fake import FakeCritic, FakePrepared
from adjudge_server.serve import Server
from adjudge_server.templates import Kind
from tests.conftest import Launch, running, stub
from tests.server.test_critiques import critiques, kinds, number
from tests.server.test_serve import NOT_SERVING, SERVING, health
from tests.server.test_service import (
    call_failure,
    compare_request,
    critique_request,
    encoded,
    failure,
    noise,
    queued,
    refusal,
    rewards,
    score_request,
    scores,
    turn,
    wait_until,
)

PATIENCE = 30.0
POISON = "poison"
honest_forward = FakeCritic.forward


class ToldCritic:
    """What the fake critic does in these tests. (A batcher keeps the function that it was given, so
    that another in its place must have been there before.)"""

    forward = honest_forward


@pytest.fixture(scope="module", autouse=True)
def _told() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FakeCritic, "forward", lambda *asked: ToldCritic.forward(*asked))
        yield


class Panic(BaseException):
    """Such as pyo3 raises for a panic in a tokenizer's Rust: no Exception."""


Forward = Callable[[FakeCritic, Sequence[FakePrepared]], list[Reading]]


def raising(error: BaseException) -> Forward:
    def forward(self: FakeCritic, batch: Sequence[FakePrepared]) -> list[Reading]:
        raise error

    return forward


def not_finite(self: FakeCritic, batch: Sequence[FakePrepared]) -> list[Reading]:
    return [
        Reading(reading.opening_mass, reading.answer_log_probs * np.nan, 1)
        for reading in honest_forward(self, batch)
    ]


def failing_at_poison(error: BaseException) -> Forward:
    def forward(self: FakeCritic, batch: Sequence[FakePrepared]) -> list[Reading]:
        if any(POISON in item.query.candidates for item in batch):
            raise error
        return honest_forward(self, batch)

    return forward


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(vitals, "PROBE_SECONDS", 0.1)


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch(critic="fake")


def health_of(server: Server) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        return health(channel, "")


def reasons(outcomes: Sequence[pb.ScoreOutcome]) -> list[str]:
    return [failure(o.error).reason if o.HasField("error") else "" for o in outcomes]


def health_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line.split(";")[0] for line in lines if line.startswith("health:")]


def holds_nothing(server: Server) -> bool:
    service = server._service
    is_idle = server.open_bytes.total == service.open_critiques == queued(server) == 0
    return is_idle and service._critiques._writing._value == server.config.max_open_critiques


# Health -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forward",
    [raising(RuntimeError("device-side assert")), raising(Panic()), not_finite],
    ids=["raises", "panics", "not finite"],
)
def test_health_says_when_every_batch_fails_and_when_they_are_answered_again(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    forward: Forward,
) -> None:
    with stub(server) as service:
        with monkeypatch.context() as broken:
            broken.setattr(ToldCritic, "forward", forward)
            for _ in range(vitals.SUSPICIOUS):
                assert reasons(scores(service, "a", "b")) == ["CRITIC_FAILURE"] * 2
            wait_until(lambda: health_of(server) == NOT_SERVING)
            assert reasons(scores(service, "a")) == ["CRITIC_FAILURE"], "it is asked all the same"
        # Nobody calls: the server finds out by itself.
        wait_until(lambda: health_of(server) == SERVING)
        assert rewards(service, "a", "b")
    assert health_lines(caplog) == ["health: NOT_SERVING", "health: SERVING"]


def test_one_item_that_fails_again_and_again_does_not_make_a_critic_unwell(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ToldCritic, "forward", failing_at_poison(RuntimeError("never")))
    with stub(server) as service:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert reasons(scores(service, POISON)) == ["CRITIC_FAILURE"]
    assert health_lines(caplog) == []
    assert health_of(server) == SERVING


def test_what_is_off_format_is_no_failure_of_the_critic(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adjudge_server.critics.fake.OPENING_MASS", -10.0)
    assert server.models.critics[0].batcher is not None
    with stub(server) as service:
        for _ in range(vitals.SUSPICIOUS + 1):
            assert reasons(scores(service, "a")) == ["OFF_FORMAT"]
            assert server.models.critics[0].batcher.failures_in_a_row == 0


# A thread that hangs, or has died -----------------------------------------------------------------


def test_a_hung_pass_fails_who_waits_refuses_who_comes_and_is_over_when_it_ends(
    monkeypatch: pytest.MonkeyPatch, launch: Launch
) -> None:
    server = launch(critic="fake", watchdog_seconds=0.3)
    release = threading.Event()

    def forward(self: FakeCritic, batch: Sequence[FakePrepared]) -> list[Reading]:
        release.wait(PATIENCE)
        return honest_forward(self, batch)

    with stub(server) as service:
        with monkeypatch.context() as hung:
            hung.setattr(ToldCritic, "forward", forward)
            calls = [service.ScoreCandidates.future(score_request("a")) for _ in range(3)]
            critique = service.CritiqueCandidates(critique_request("a"))
            for call in calls:
                assert reasons(call.result(PATIENCE).outcomes) == ["CRITIC_FAILURE"]
            assert [failure(event.error).reason for event in critique if event.HasField("error")]
            wait_until(lambda: health_of(server) == NOT_SERVING)
            found = refusal(service, score_request("b"))
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
            assert queued(server) == 0
            release.set()
        wait_until(lambda: health_of(server) == SERVING)
        assert rewards(service, "a", "b")
    assert holds_nothing(server)


def test_a_long_critique_does_not_wake_the_watchdog(
    monkeypatch: pytest.MonkeyPatch, launch: Launch
) -> None:
    def critique(self: FakeCritic, item: object, max_tokens: int) -> Iterator[Written]:
        for _ in range(20):
            time.sleep(0.1)
            yield Written(0, "and ")

    monkeypatch.setattr(FakeCritic, "critique", critique)
    with stub(launch(critic="fake", watchdog_seconds=1.0)) as service:
        (item,) = critiques(service, critique_request("a"))
    assert kinds(item)[-1] == "end"


def test_when_the_models_thread_has_died_nobody_waits_and_everybody_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from adjudge_server.config import Config

    with running(Config(listen="127.0.0.1:0", critic="fake", drain_seconds=5.0)) as server:
        assert server.models.critics[0].batcher is not None

        def die() -> None:
            raise SystemExit

        with stub(server) as service:
            monkeypatch.setattr(server.models.critics[0].batcher, "_take_batch", die)
            assert reasons(scores(service, "a", "b")) == ["CRITIC_FAILURE"] * 2
            for request in (score_request("a"), critique_request("a")):
                assert refusal(service, request).reason == "NOT_READY"
            wait_until(lambda: health_of(server) == NOT_SERVING)
        assert holds_nothing(server)
        began = time.monotonic()
    assert time.monotonic() - began < 4.0, "it still ends as it should"


@contextmanager
def faulty(*flags: str) -> Iterator[tuple["subprocess.Popen[str]", RewardServiceStub]]:
    """A server in a process of its own; see the module of that name."""
    command = [sys.executable, "-m", "tests.server.faulty", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--critic", "fake", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = re.fullmatch(r"serving \S+ on (\S+)\n", process.stdout.readline())
            assert ready is not None
            with grpc.insecure_channel(ready[1]) as channel:
                yield process, RewardServiceStub(channel)
        finally:
            process.kill()


def accepted(service: RewardServiceStub, text: str) -> grpc.Future:
    """A call that the model's thread is at."""
    service.GetModel(pb.GetModelRequest(), wait_for_ready=True, timeout=PATIENCE)
    call: grpc.Future = service.ScoreCandidates.future(score_request(text))
    time.sleep(0.7)
    return call


def test_a_hung_pass_ends_the_process_where_that_is_chosen() -> None:
    with faulty("--watchdog-seconds", "0.5", "--on-stuck", "exit") as (process, service):
        call = accepted(service, "hang")
        assert call.exception(PATIENCE).code() is grpc.StatusCode.UNAVAILABLE
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == vitals.EXIT_STATUS != 0
    assert "--on-stuck says exit" in log
    assert "in forward" in log, "the log says where it hung"


# Signals ------------------------------------------------------------------------------------------


def test_what_was_accepted_is_answered_after_the_first_signal() -> None:
    with faulty() as (process, service):
        call = accepted(service, "slow")
        process.send_signal(signal.SIGTERM)
        assert call.result(PATIENCE).outcomes[0].HasField("reward")
        _, log = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in log) == (0, False)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_second_signal_ends_it_at_once(number: signal.Signals, status: int) -> None:
    with faulty() as (process, service):
        call = accepted(service, "hang")
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None, "the first one drains"
        process.send_signal(number)
        assert process.wait(PATIENCE) == status
        assert call.exception(PATIENCE).code() is grpc.StatusCode.UNAVAILABLE


def test_what_is_left_after_the_grace_period_is_told_to_try_elsewhere() -> None:
    with faulty("--drain-seconds", "0.5") as (process, service):
        call = accepted(service, "hang")
        process.send_signal(signal.SIGTERM)
        error: Any = call.exception(PATIENCE)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "NOT_READY" in str(dict(error.trailing_metadata())["grpc-status-details-bin"])
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "grace period is over" in log


# Numbers that are none ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["answers", "opening"])
def test_a_number_that_is_not_finite_costs_only_its_item_whatever_the_template(
    server: Server, monkeypatch: pytest.MonkeyPatch, value: float, where: str
) -> None:
    def forward(self: FakeCritic, batch: Sequence[FakePrepared]) -> list[Reading]:
        readings = honest_forward(self, batch)
        for index, item in enumerate(batch):
            if POISON in item.query.candidates:
                numbers = readings[index].answer_log_probs.copy()
                numbers[-1] = value if where == "answers" else numbers[-1]
                opening = value if where == "opening" else readings[index].opening_mass
                readings[index] = Reading(opening, numbers, 1)
        return readings

    assert server._service.judge is not None
    templates = server._service.judge.card.templates
    assert {template.kind for template in templates} == set(Kind)
    monkeypatch.setattr(ToldCritic, "forward", forward)
    with stub(server) as service:
        for template in templates:
            extras = {
                slot: "A seven." for slot in ("reference", "rubric") if slot in template.slots
            }
            if template.kind is Kind.POINTWISE:
                request = score_request("a", POISON, "b", template=template.name, **extras)
                outcomes = service.ScoreCandidates(request).outcomes
                assert [o.WhichOneof("outcome") for o in outcomes] == ["reward", "error", "reward"]
            else:
                texts, pairs = ("a", "b", POISON), [(0, 1), (0, 2)]
                request = compare_request(*texts, pairs=pairs, template=template.name, **extras)
                outcomes = service.CompareCandidates(request).outcomes
                assert [o.WhichOneof("outcome") for o in outcomes] == ["comparison", "error"]
            found = failure(next(o.error for o in outcomes if o.HasField("error")))
            assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "CRITIC_FAILURE")


# Out of memory ------------------------------------------------------------------------------------


def test_out_of_memory_while_a_picture_is_decoded_costs_that_request(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = score_request("a", prompt=[turn("What?", encoded(noise(8, 8)))])

    def decode(*args: object, **kwargs: object) -> None:
        raise MemoryError

    with stub(server) as service:
        with monkeypatch.context() as full:
            full.setattr("adjudge_server.asking.decode", decode)
            assert refusal(service, request).reason == "CRITIC_FAILURE"
            assert rewards(service, "a"), "others are answered"
        assert service.ScoreCandidates(request).outcomes[0].HasField("reward")
        wait_until(lambda: holds_nothing(server))


@pytest.mark.parametrize("error", [MemoryError(), Panic()], ids=["memory", "panic"])
@pytest.mark.parametrize(
    "request_", [score_request("a"), compare_request("a", "b"), critique_request("a")]
)
def test_a_tokenizer_that_fails_costs_that_request(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: BaseException, request_: Any
) -> None:
    def prepare(self: FakeCritic, queries: object) -> None:
        raise error

    with stub(server) as service:
        with monkeypatch.context() as broken:
            broken.setattr(FakeCritic, "prepare", prepare)
            found = refusal(service, request_)
            assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "CRITIC_FAILURE")
        assert rewards(service, "a")
        wait_until(lambda: holds_nothing(server))


@pytest.mark.parametrize("error", [MemoryError(), Panic()], ids=["memory", "panic"])
def test_an_item_that_does_not_fit_the_models_memory_fails_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with stub(server) as service:
        sound = scores(service, "a", "b")
        with monkeypatch.context() as full:
            full.setattr(ToldCritic, "forward", failing_at_poison(error))
            outcomes = scores(service, "a", POISON, "b")
        assert [outcomes[0], outcomes[2]] == sound
        assert reasons(outcomes) == ["", "CRITIC_FAILURE", ""]
        wait_until(lambda: holds_nothing(server))


@pytest.mark.parametrize("error", [MemoryError(), Panic()], ids=["memory", "panic"])
def test_a_critique_that_runs_out_of_memory_fails_alone_and_makes_room(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    honest, forgotten = FakeCritic.critique, threading.Event()

    def critique(self: FakeCritic, item: Any, max_tokens: int) -> Iterator[Written]:
        if POISON in item.query.candidates:
            raise error
        yield from honest(self, item, max_tokens)

    with stub(server) as service:
        sound = critiques(service, critique_request("a"))
        with monkeypatch.context() as full:
            full.setattr(FakeCritic, "critique", critique)
            full.setattr(FakeCritic, "forget", lambda self: forgotten.set())
            poisoned, other = critiques(service, critique_request(POISON, "a"))
        assert kinds(poisoned) == ["error"]
        assert failure(poisoned[0].error).reason == "CRITIC_FAILURE"
        assert number(other) == number(sound[0])
        assert forgotten.is_set() == isinstance(error, MemoryError)
        wait_until(lambda: holds_nothing(server))


# Callers that do not listen -----------------------------------------------------------------------


def test_a_caller_that_does_not_read_its_critique_does_not_keep_others_from_theirs(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one place for an open critique, and events large enough to fill every window."""
    caplog.set_level(logging.INFO, "adjudge_server")
    server = launch(critic="fake", write_seconds=1.0, max_open_critiques=1)
    endless_text = "and " * 2**16

    def critique(self: FakeCritic, item: object, max_tokens: int) -> Iterator[Written]:
        for _ in range(max_tokens):
            yield Written(0, endless_text)

    with stub(server) as service:
        with monkeypatch.context() as patched:
            patched.setattr(FakeCritic, "critique", critique)
            silent = service.CritiqueCandidates(critique_request("a"))
            assert next(silent).text
        (item,) = critiques(service, critique_request("b"))
        assert kinds(item)[-1] == "end"
        with pytest.raises(grpc.RpcError) as ended:
            list(silent)
        assert call_failure(ended.value).reason == "DEADLINE_EXCEEDED"
    wait_until(lambda: holds_nothing(server))
    assert any("read nothing" in record.getMessage() for record in caplog.records)


def test_a_caller_that_reads_slowly_but_reads_gets_its_critique(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub(launch(critic="fake", write_seconds=1.0)) as service:
        events = []
        for event in service.CritiqueCandidates(critique_request("a")):
            events.append(event)
            time.sleep(0.2)
    assert events[-1].HasField("provenance")


@pytest.mark.parametrize("leaves", ["cancels", "disconnects", "is too late"])
def test_model_work_for_a_caller_that_has_left_stops_within_one_batch(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    """Counted in tokens: of 64 candidates one batch was being computed, and at most one more is."""
    server = launch(critic="fake", max_batch_tokens=64)
    begun, go_on = threading.Event(), threading.Event()
    computed: list[int] = []

    def forward(self: FakeCritic, batch: Sequence[FakePrepared]) -> list[Reading]:
        computed.append(sum(item.own_tokens for item in batch))
        begun.set()
        go_on.wait(PATIENCE)
        return honest_forward(self, batch)

    request = score_request(*(f"a candidate of {i} words, more or less" for i in range(64)))
    with monkeypatch.context() as patched:
        patched.setattr(ToldCritic, "forward", forward)
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        timeout = 1.0 if leaves == "is too late" else None
        call = RewardServiceStub(channel).ScoreCandidates.future(request, timeout=timeout)
        assert begun.wait(PATIENCE)
        assert queued(server) > 300, "there is much more to do"
        if leaves == "cancels":
            call.cancel()
        elif leaves == "disconnects":
            channel.close()
        else:
            assert call.exception(PATIENCE).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        time.sleep(0.3)
        go_on.set()
        wait_until(lambda: queued(server) == 0)
        channel.close()
    with stub(server) as service:
        assert rewards(service, "wanted")
    assert len(computed) <= 2
    assert sum(computed) <= 2 * 64
