"""Servers for tests: real ones, on free ports, in a thread of this process."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import grpc
import pytest
from hypothesis import settings

from adjudge.v1 import reward_pb2_grpc
from adjudge_server.config import Config
from adjudge_server.serve import Server

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SEVEN = Path(__file__).parent.parent / "examples" / "images" / "seven.png"
CROSS = (
    "The image is a black and white sketch of a line that appears to be in the shape of a cross."
    " The line is a simple and straightforward representation of the cross shape, with two straight"
    " lines intersecting at a point."
)


@contextmanager
def running(config: Config) -> Iterator[Server]:
    """A server that serves, and is drained at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Server:
        server = Server(config)
        await server.start()
        await server.load()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


Launch = Callable[..., Server]


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Starts servers with settings of the test's choice; they live as long as the module."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            running(Config(listen="127.0.0.1:0", drain_seconds=5.0, **settings))
        )


@pytest.fixture(scope="session")
def fake_server() -> Iterator[Server]:
    with running(Config(listen="127.0.0.1:0", critic="fake", drain_seconds=5.0)) as server:
        yield server


@pytest.fixture(scope="session")
def address(fake_server: Server) -> str:
    """Where a server with the fake critic listens."""
    return f"127.0.0.1:{fake_server.port}"


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    with running(Config(listen="127.0.0.1:0", drain_seconds=5.0)) as server:
        yield server


@contextmanager
def stub(server: Server) -> Iterator[reward_pb2_grpc.RewardServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield reward_pb2_grpc.RewardServiceStub(channel)
