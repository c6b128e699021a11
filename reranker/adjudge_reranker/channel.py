"""Connections to a server, made when they are first needed and never carried where they break:
not into a forked process, not into another event loop, not through a pickle.

A process that forks after a call also needs `GRPC_ENABLE_FORK_SUPPORT=1` in its environment before
gRPC is first imported: gRPC's own threads do not survive a fork. Measured: of 20 children forked
after a first call 8 failed without it, none with it. Processes that are spawned do not need it.
"""

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, cast

import grpc
import grpc.aio

from adjudge.v1 import admin_pb2_grpc, reward_pb2_grpc
from adjudge_reranker.access import NO_ACCESS, Access, Options
from adjudge_reranker.errors import ServerUnavailable
from adjudge_reranker.renewal import Renewed

if TYPE_CHECKING:
    from adjudge.v1.reward_pb2_grpc import RewardServiceAsyncStub

DEFAULT_MAX_MESSAGE_BYTES: Final = 64 * 2**20
_MAX_DIGESTS = 4096

T = TypeVar("T")


def channel_options(max_message_bytes: int) -> Options:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_retries", 0),  # retry.py says why
        # Otherwise channels of the same target share connections, also those that a forked child
        # opens with those of its parent. Measured: 7 of 80 children failed with "Stream removed",
        # none of 80 with this.
        ("grpc.use_local_subchannel_pool", 1),
        # The critic stands in the caller's own network; a proxy for the internet does not know it.
        ("grpc.enable_http_proxy", 0),
        # gRPC's default pause between connection attempts grows to 2 minutes, longer than most
        # callers wait for a server to come back.
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Also how long a connection attempt may take, by default 20 s: a machine that vanished must
        # not use up the timeout of a call that another endpoint could answer.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        # Notices a machine that vanished during a call without a timeout. Servers hang up on
        # clients that ping more often than every 5 minutes.
        ("grpc.keepalive_time_ms", 360_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


class SentPictures:
    """Wire digests of the pictures that the server has received from this connection.

    Bounded; forgets the one that was not used for longest. Safe to share between threads.
    """

    def __init__(self, max_digests: int = _MAX_DIGESTS) -> None:
        self._max_digests = max_digests
        self._digests: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, digests: Iterable[bytes]) -> frozenset[bytes]:
        """Those of `digests` that were sent before."""
        with self._lock:
            return frozenset(digest for digest in digests if digest in self._digests)

    def remember(self, digests: Iterable[bytes]) -> None:
        with self._lock:
            for digest in digests:
                self._digests[digest] = None
                self._digests.move_to_end(digest)
            while len(self._digests) > self._max_digests:
                self._digests.popitem(last=False)

    def forget(self, digests: Iterable[bytes]) -> None:
        with self._lock:
            for digest in digests:
                self._digests.pop(digest, None)


class Connection:
    """A channel of the blocking API, in one process."""

    def __init__(
        self,
        address: str,
        max_message_bytes: int,
        access: Access = NO_ACCESS,
        *,
        host: str | None = None,
    ) -> None:
        """`host` is that of `Access.channel`. Raises ServerUnavailable for TLS files that cannot be
        used now."""
        options = channel_options(max_message_bytes)
        self._renewed = _renewed(
            lambda: _Stubs(access.channel(address, options, host)), access, address
        )
        self.metadata = access.metadata
        """What every call carries."""
        self.sent = SentPictures()

    @property
    def stub(self) -> reward_pb2_grpc.RewardServiceStub:
        """For one call: the next may find another, if certificates were renewed."""
        return self._stubs().reward

    @property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        """Likewise."""
        return self._stubs().admin

    def close(self) -> None:
        for stubs in self._renewed.end():
            stubs.channel.close()

    def _stubs(self) -> "_Stubs":
        for old in self._renewed.outlived():
            old.channel.close()
        return self._renewed.get()


class _Stubs:
    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.reward = reward_pb2_grpc.RewardServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)


class AsyncConnection:
    """A channel of the asyncio API, in one event loop."""

    def __init__(
        self,
        address: str,
        max_message_bytes: int,
        access: Access = NO_ACCESS,
        *,
        host: str | None = None,
    ) -> None:
        """`host` is that of `Access.channel`. Raises ServerUnavailable for TLS files that cannot be
        used now."""
        options = channel_options(max_message_bytes)
        self._renewed = _renewed(
            lambda: _AsyncStubs(access.async_channel(address, options, host)), access, address
        )
        self._closing: set[asyncio.Task[None]] = set()
        """Event loops forget tasks that nobody else remembers."""
        self.metadata = access.metadata
        """What every call carries."""
        self.sent = SentPictures()

    @property
    def stub(self) -> "RewardServiceAsyncStub":
        """For one call: the next may find another, if certificates were renewed."""
        for old in self._renewed.outlived():
            task = asyncio.get_running_loop().create_task(old.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._renewed.get().reward

    async def close(self) -> None:
        for stubs in self._renewed.end():
            await stubs.channel.close()
        await asyncio.gather(*self._closing)


class _AsyncStubs:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        self.reward = cast("RewardServiceAsyncStub", stub)


def _renewed(make: Callable[[], T], access: Access, address: str) -> Renewed[T]:
    """Raises ServerUnavailable for TLS files that cannot be used: they could when the client was
    made, so somebody is replacing them, and a later attempt finds them whole."""
    try:
        return Renewed(make, access.tls_files)
    except (OSError, ValueError) as error:
        raise ServerUnavailable(
            f"no connection to {address} can be made: {error}", code=grpc.StatusCode.UNAVAILABLE
        ) from error


class Closing(Protocol):
    """What `Connections` keeps."""

    def close(self) -> None: ...


class AsyncClosing(Protocol):
    """What `AsyncConnections` keeps."""

    async def close(self) -> None: ...


C = TypeVar("C", bound=Closing)
A = TypeVar("A", bound=AsyncClosing)


class Connections(Generic[C]):
    """One `C` in each process that asks. Safe to share between threads.

    Without a lock on purpose: a fork while another thread holds one would leave the child waiting
    for a thread that it does not have.
    """

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._by_process: dict[int, C] = {}
        self._closed = False

    def get(self) -> C:
        """Raises RuntimeError after `close`."""
        _require_open(self._closed)
        process = os.getpid()
        connection = self._by_process.get(process)
        if connection is None:
            made = self._make()
            connection = self._by_process.setdefault(process, made)
            if connection is not made:  # another thread was faster
                made.close()
        return connection

    def close(self) -> None:
        """Closes this process's connection; a parent's is not this process's to touch."""
        self._closed = True
        connection = self._by_process.pop(os.getpid(), None)
        if connection is not None:
            connection.close()


class AsyncConnections(Generic[A]):
    """One `A` in each event loop that asks."""

    def __init__(self, make: Callable[[], A]) -> None:
        self._make = make
        self._by_loop: dict[asyncio.AbstractEventLoop, A] = {}
        self._closed = False

    def get(self) -> A:
        """Needs a running event loop. Raises RuntimeError after `close`."""
        _require_open(self._closed)
        loop = asyncio.get_running_loop()
        connection = self._by_loop.get(loop)
        if connection is None:
            # A channel keeps its loop alive, so weak keys would never go: sweep instead.
            for old in [old for old in list(self._by_loop) if old.is_closed()]:
                self._by_loop.pop(old, None)
            connection = self._make()
            self._by_loop[loop] = connection
        return connection

    async def close(self) -> None:
        """Closes the running loop's connection; those of other loops end with them."""
        self._closed = True
        connection = self._by_loop.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.close()


def _require_open(closed: bool) -> None:
    if closed:
        raise RuntimeError("this client was closed")
