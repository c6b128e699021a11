"""Who watches and does not read keeps nobody from learning what changed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge_server.caches import Memory
from adjudge_server.config import Config
from adjudge_server.health import Health
from adjudge_server.resident import Resident
from tests.conftest import Launch, running
from tests.server.test_service import wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def watch(health: Health, service: str) -> AsyncIterator[Any]:
    context: Any = None  # nobody is too slow here
    return health.Watch(health_pb2.HealthCheckRequest(service=service), context)


async def checked(health: Health, service: str) -> int:
    context: Any = None
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service), context)
    return int(answer.status)


def test_a_watcher_that_takes_nothing_more_holds_nobody_up() -> None:
    async def run() -> None:
        health = Health(write_seconds=60.0)
        health.set("critic", True)
        idle, living = watch(health, "critic"), watch(health, "critic")
        assert (await anext(idle)).status == (await anext(living)).status == SERVING
        # `idle` is never resumed, as by gRPC where a caller's window is full.
        health.set("critic", False)
        assert await checked(health, "critic") == NOT_SERVING
        assert (await anext(living)).status == NOT_SERVING
        health.set("critic", True)
        assert (await anext(living)).status == SERVING
        health.end()
        assert (await anext(living)).status == NOT_SERVING
        health.set("critic", True)
        assert await checked(health, "critic") == NOT_SERVING

    asyncio.run(run())


def test_a_service_that_is_not_there_yet_can_be_watched() -> None:
    async def run() -> None:
        health = Health(write_seconds=60.0)
        watcher = watch(health, "later")
        assert (await anext(watcher)).status == UNKNOWN
        health.set("another", True)
        health.set("later", True)
        assert (await anext(watcher)).status == SERVING

    asyncio.run(run())


def test_what_a_critic_remembers_is_counted_on_while_it_is_not_served() -> None:
    with ThreadPoolExecutor(1) as pool:
        resident = Resident(Config(critic="fake"), pool, lambda *_: None)
        resident.plan()
        resident.load()
        critic: Any = resident._critic
        critic.memory = lambda: Memory(reused_tokens=7)
        judge = resident.warm_up(lambda _: None)
        for at_work in (judge, None, judge):
            resident.judge = at_work
            assert resident.look().memory.reused_tokens == 7
        assert resident.batcher is not None
        resident.batcher.close(30.0)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Of HTTP/2, RFC 9113 section 4.1."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def watching_with_a_closed_window(port: int) -> socket.socket:
    """A connection that asks to watch the whole server, and lets nothing be sent to it."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Watch",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    # Literals that are not indexed, RFC 7541 section 6.2.2.
    written = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    no_window = (4).to_bytes(2, "big") + (0).to_bytes(4, "big")  # SETTINGS_INITIAL_WINDOW_SIZE
    watcher = socket.create_connection(("127.0.0.1", port))
    watcher.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, no_window)
        + frame(4, 1, 0, b"")
        + frame(1, 4, 1, written)
        + frame(0, 1, 1, bytes(5))  # an empty message
    )
    return watcher


def test_a_watcher_whose_window_is_closed_is_let_go_and_others_learn_what_changed(
    launch: Launch,
) -> None:
    server = launch(critic="fake", write_seconds=1.0)
    with (
        watching_with_a_closed_window(server.port),
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        wait_until(lambda: server._health._watchers)
        health = health_pb2_grpc.HealthStub(channel)
        resident, loop = server.models.critics[0], server._loop
        judge = resident.judge
        assert loop is not None
        for at_work, status in ((None, NOT_SERVING), (judge, SERVING)):
            loop.call_soon_threadsafe(server._serve, resident, at_work)
            asked = health_pb2.HealthCheckRequest()
            wait_until(lambda: health.Check(asked, timeout=30.0).status == status)  # noqa: B023
        wait_until(lambda: not server._health._watchers)


def test_who_watches_when_the_server_stops_is_told_and_let_go() -> None:
    with running(Config(listen="127.0.0.1:0", critic="fake", drain_seconds=600.0)) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        watch_ = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch_).status == SERVING
    # Out of here, it has stopped.
    assert [answer.status for answer in watch_] == [NOT_SERVING]
    assert watch_.code() is grpc.StatusCode.OK
    channel.close()
