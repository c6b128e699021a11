"""The server's life as an operator sees it: a process, its port, its health, its end."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server.__main__ import parse
from adjudge_server.config import Config
from adjudge_server.loading import load_critic
from adjudge_server.serve import Server
from tests.conftest import Launch, stub
from tests.server.test_service import (
    busy,
    compare_request,
    critique_request,
    queued,
    refusal,
    rewards,
    score_request,
    wait_until,
)

PATIENCE = 30.0
"""Seconds after which a test gives up on something that should have happened."""
SERVICE = "adjudge.v1.RewardService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
T = TypeVar("T")


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "adjudge_server", "--critic", "fake", *flags]


@contextmanager
def process(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and the address that it prints once it is ready."""
    with subprocess.Popen(
        command("--listen", "127.0.0.1:0", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            ready = re.fullmatch(r"serving (\S+) on (127\.0\.0\.1:\d+)\n", line)
            assert ready, f"it printed {line!r}"
            yield server, ready[2]
        finally:
            server.kill()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with process() as (_, address):
        yield address


def health(channel: grpc.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    status: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE).status
    return status


# A process ----------------------------------------------------------------------------------------


def test_a_server_that_has_printed_its_address_answers_there(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        assert rewards(RewardServiceStub(channel), "seven")


@pytest.mark.parametrize("service", ["", SERVICE])
def test_a_server_that_has_printed_its_address_is_serving(address: str, service: str) -> None:
    with grpc.insecure_channel(address) as channel:
        assert health(channel, service) == SERVING


def test_the_health_of_a_service_that_is_not_there_is_not_known(address: str) -> None:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as unknown:
        health(channel, "adjudge.v1.Nothing")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_the_schema(address: str) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    with grpc.insecure_channel(address) as channel:
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        listed, described = reflect(iter(requests), timeout=PATIENCE)
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    schema = pb.DESCRIPTOR.serialized_pb
    assert schema in described.file_descriptor_response.file_descriptor_proto


def test_a_second_server_on_the_port_fails_names_the_address_and_leaves_the_first_alone(
    address: str,
) -> None:
    second = subprocess.run(
        command("--listen", address), capture_output=True, text=True, timeout=PATIENCE
    )
    assert second.returncode not in (0, 2)
    assert second.stdout == ""
    assert second.stderr == (f"adjudge-server: --listen {address}: another server listens there\n")
    with grpc.insecure_channel(address) as channel:
        assert health(channel, SERVICE) == SERVING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_told_to_stop_drains_and_exits_with_success(number: signal.Signals) -> None:
    with process() as (server, address):
        with grpc.insecure_channel(address) as channel:
            assert rewards(RewardServiceStub(channel), "seven")
        server.send_signal(number)
        out, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert "ERROR" not in err


def test_nonsense_on_the_command_line_exits_with_2_and_serves_nothing() -> None:
    ended = subprocess.run(
        command("--max-images", "none"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 2
    assert "--max-images" in ended.stderr
    assert ended.stdout == ""


# Flags --------------------------------------------------------------------------------------------


def test_no_flags_mean_the_defaults() -> None:
    assert parse([]) == Config()


def test_flags_mean_what_they_say() -> None:
    flags = ["--listen", "[::1]:0", "--critic", "fake", "--max-pairs", "7", "--drain-seconds", "0"]
    assert parse(flags) == Config(listen="[::1]:0", critic="fake", max_pairs=7, drain_seconds=0.0)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--listen", "127.0.0.1"),
        ("--listen", ":50051"),
        ("--listen", "127.0.0.1:http"),
        ("--listen", "127.0.0.1:-1"),
        ("--listen", "127.0.0.1:65536"),
        ("--listen", "127.0.0.1:99999"),
        ("--critic", "nonsense"),
        ("--workers", "0"),
        ("--threads", "-1"),
        ("--max-candidates", "0"),
        ("--max-batch-tokens", "1.5"),
        ("--max-retained-bytes", "-1"),
        ("--drain-seconds", "-0.5"),
        ("--drain-seconds", "nan"),
    ],
)
def test_flags_that_make_no_sense_exit_with_2_and_are_named(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([flag, value])
    assert ended.value.code == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert flag in complaint
    assert value in complaint


def test_the_fake_critic_takes_no_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--critic", "fake", "--model", "somewhere"])
    assert ended.value.code == 2
    assert "--model" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_that_is_not_there_is_named_and_nothing_is_asked_of_a_hub() -> None:
    with pytest.raises(ValueError, match="lmms-lab/llava-critic-7b"):
        load_critic(Config(model=Path("lmms-lab/llava-critic-7b")))


# Before it is ready, and while it stops -----------------------------------------------------------


class Loop:
    """An event loop in a thread, for a server whose steps the test takes one by one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextmanager
def started() -> Iterator[tuple[Server, Loop]]:
    """A server that listens and has loaded nothing yet."""
    loop = Loop()

    async def start() -> Server:
        server = Server(Config(listen="127.0.0.1:0", critic="fake", drain_seconds=PATIENCE))
        await server.start()
        return server

    try:
        yield loop.run(start()), loop
    finally:
        loop.close()


@pytest.fixture(scope="module")
def starting() -> Iterator[Server]:
    with started() as (server, loop):
        yield server
        loop.run(server.stop())


@pytest.mark.parametrize(
    "request_",
    [
        score_request("a"),
        compare_request("a", "b"),
        critique_request("a"),
        pb.GetModelRequest(),
        score_request(),
        score_request("a", model="another"),
    ],
    ids=["score", "compare", "critique", "model", "malformed", "another model"],
)
def test_before_the_critic_is_loaded_every_call_is_not_ready(
    starting: Server, request_: Any
) -> None:
    with stub(starting) as service:
        found = refusal(service, request_)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")


@pytest.mark.parametrize("service", ["", SERVICE])
def test_before_the_critic_is_loaded_health_says_not_serving(
    starting: Server, service: str
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{starting.port}") as channel:
        assert health(channel, service) == NOT_SERVING


def test_health_tells_those_who_watch_when_the_critic_is_loaded() -> None:
    with started() as (server, loop):
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=PATIENCE)
            assert next(watch).status == NOT_SERVING
            loop.run(server.load())
            assert next(watch).status == SERVING
            assert rewards(RewardServiceStub(channel), "seven")
            watch.cancel()
        loop.run(server.stop())


def test_a_call_that_was_accepted_is_answered_while_the_server_stops() -> None:
    with started() as (server, loop):
        loop.run(server.load())
        with stub(server) as service:
            with busy(server):
                accepted = service.ScoreCandidates.future(score_request("a", "b"))
                wait_until(lambda: queued(server))
                stopping = asyncio.run_coroutine_threadsafe(server.stop(), loop.loop)
                wait_until(lambda: refuses_connections(server.port))
                assert not accepted.done()
                assert not stopping.done()
            outcomes = accepted.result(PATIENCE).outcomes
        stopping.result(PATIENCE)
    assert all(outcome.reward.HasField("reward") for outcome in outcomes)


def refuses_connections(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            RewardServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
    time.sleep(0.005)
    return False


def test_a_critic_that_is_not_well_must_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adjudge_server.critics.fake.VALID_MASS", float("nan"))
    with started() as (server, loop):
        with pytest.raises(ValueError, match="not finite"):
            loop.run(server.load())
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            assert health(channel, SERVICE) == NOT_SERVING
        loop.run(server.stop())


def test_two_servers_in_one_process_do_not_share_a_port(launch: Launch) -> None:
    first, second = launch(critic="fake"), launch(critic="fake")
    assert first.port != second.port
    taken = f"127.0.0.1:{first.port}"

    async def start() -> None:
        await Server(Config(listen=taken, critic="fake")).start()

    loop = Loop()
    with pytest.raises(RuntimeError, match=re.escape(taken)):
        loop.run(start())
    loop.close()
