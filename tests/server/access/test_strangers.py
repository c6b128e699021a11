"""What strangers do leaves no traceback in the log, and no line for each of them."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge_server.observing.request_log import MAX_PER_SECOND
from tests.certificates import Certificates
from tests.server.access.conftest import new_token, secret_file
from tests.server.test_service import wait_until
from tests.server.watched import Watched, watched

MANY = 200
SERVED = "adjudge.v1.RewardService"
METHODS = [
    f"/{SERVED}/ScoreCandidates",
    f"/{SERVED}/CritiqueCandidates",
    f"/{SERVED}/Nothing",
    "/adjudge.v1.AdminService/LoadWeights",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/" + "n" * 5000,
]
NO_MESSAGE = b"\xff" * 20


@pytest.fixture
def open_to_all(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path / "log", "--critic", "fake") as server:
        yield server


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Watched]:
    tokens = secret_file(tmp_path / "tokens", new_token())
    flags = ("--critic", "fake", "--tokens", str(tokens), "--closed-health")
    with watched(tmp_path / "log", *flags) as server:
        yield server


def check_log(server: Watched, began: float) -> None:
    """At most one line for each tenth of a second since it began, and those of the start."""
    assert server.is_alive()
    assert not server.complaints()
    lines = server.log.read_text().splitlines()
    seconds = int(time.monotonic() - began) + 2
    assert len(lines) <= seconds * MAX_PER_SECOND + 5
    assert all(line[:4].isdigit() for line in lines), "each begins with its date"


def call_all(address: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
    with grpc.insecure_channel(address) as channel:
        for number in range(MANY):
            call = channel.stream_stream(METHODS[number % len(METHODS)])
            with pytest.raises(grpc.RpcError):
                # A watch that is open to all would go on for ever.
                list(call(iter([NO_MESSAGE]), metadata=metadata, timeout=20.0))


def test_calls_without_a_token_or_with_a_wrong_one(closed: Watched) -> None:
    began = time.monotonic()
    call_all(closed.address)
    call_all(closed.address, (("authorization", f"Bearer {new_token()}"),))
    check_log(closed, began)


def test_what_is_no_message(open_to_all: Watched) -> None:
    began = time.monotonic()
    call_all(open_to_all.address)
    check_log(open_to_all, began)


def test_watches_of_health_that_are_broken_off(open_to_all: Watched) -> None:
    began, files = time.monotonic(), open_to_all.files()
    for number in range(20):
        with grpc.insecure_channel(open_to_all.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watching = [
                stub.Watch(health_pb2.HealthCheckRequest(service=name))
                for name in ("", SERVED, f"unknown {number}")
            ]
            told = [next(watch).status for watch in watching]
            assert told == [
                health_pb2.HealthCheckResponse.SERVING,
                health_pb2.HealthCheckResponse.SERVING,
                health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
            ]
            watching[0].cancel()  # the others by the end of the connection
    wait_until(lambda: open_to_all.files() <= files)
    check_log(open_to_all, began)


def test_health_lists_what_it_tells_of(open_to_all: Watched) -> None:
    with grpc.insecure_channel(open_to_all.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        listed = stub.List(health_pb2.HealthListRequest()).statuses
        assert {"", SERVED} <= set(listed)
        for name, answer in listed.items():
            assert answer == stub.Check(health_pb2.HealthCheckRequest(service=name))
    assert not open_to_all.complaints()


@pytest.mark.parametrize("sealed", [False, True])
def test_connections_that_speak_something_else(sealed: bool, tmp_path: Path) -> None:
    flags = ["--critic", "fake"]
    if sealed:
        certificates = Certificates(tmp_path / "certificates")
        certificates.server()
        pem, key = certificates.pem("server"), certificates.key("server")
        flags += ["--tls-cert", str(pem), "--tls-key", str(key)]
    with watched(tmp_path / "log", *flags) as server:
        began, files = time.monotonic(), server.files()
        host, _, port = server.address.rpartition(":")
        for number in range(MANY):
            # They may be hung up on before they have said it all.
            with (
                contextlib.suppress(OSError),
                socket.create_connection((host, int(port)), timeout=20.0) as connection,
            ):
                connection.sendall(_SAID[number % len(_SAID)])
        wait_until(lambda: server.files() <= files)
        check_log(server, began)


_SAID = [
    b"",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\xff\xff" + bytes(100),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    bytes(range(256)) * 100,
]
