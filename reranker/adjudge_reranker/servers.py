"""The servers of a client: which ones there are, which takes a call, and what is held for each."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import grpc

from adjudge_reranker.endpoints import Endpoints
from adjudge_reranker.errors import RewardError, ServerUnavailable
from adjudge_reranker.names import Names, Target
from adjudge_reranker.retry import RetryPolicy

C = TypeVar("C")

RETIRED_SECONDS: Final = 600.0
"""For which a connection is kept whose server no name stands for any more: it may be draining, with
calls that it will answer, or come back."""


class Servers(Generic[C]):
    """Makes a `C` for each server that is used. Safe to share between threads of one process."""

    def __init__(
        self,
        addresses: Sequence[str],
        policy: RetryPolicy,
        make: Callable[[Target], C],
        *,
        names: Names | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = names or Names(addresses)
        self._endpoints = Endpoints(policy)
        self._make = make
        self._clock = clock
        self._connections: dict[Target, C] = {}
        self._gone: dict[Target, float] = {}
        """Since when."""
        self._has_ended = False
        self._lock = threading.Lock()

    def refresh(self) -> Future[None] | None:
        """To be called before each call; what to wait for then, if anything."""
        return self._names.refresh()

    @contextmanager
    def one(self, key: bytes) -> Iterator[C]:
        """The connection for a call about `key`, which is in flight inside the block. Raises
        ServerUnavailable where no name has an address."""
        targets = {target.address: target for target in self._names.targets}
        if not targets:
            raise ServerUnavailable(self._names.problem, code=grpc.StatusCode.UNAVAILABLE)
        with self._endpoints.chosen(key, tuple(targets)) as address:
            try:
                yield self._connection(targets[address])
            except RewardError as error:
                if error.code is grpc.StatusCode.UNAVAILABLE:
                    self._names.doubt()
                raise

    def elsewhere(self) -> bool:
        """Whether a call that just failed can go to another server, so that it need not wait."""
        return self._endpoints.elsewhere([target.address for target in self._names.targets])

    def retired(self) -> list[C]:
        """Those that nobody will use again, to be closed; they are in no other answer."""
        targets, now = self._names.targets, self._clock()
        with self._lock:
            for target in targets:
                self._gone.pop(target, None)
            gone = [target for target in self._connections if target not in targets]
            over = [t for t in gone if now - self._gone.setdefault(t, now) > RETIRED_SECONDS]
            for target in over:
                del self._gone[target]
            return [self._connections.pop(target) for target in over]

    def end(self) -> list[C]:
        """All of them, to be closed; no other will be made."""
        with self._lock:
            self._has_ended = True
            connections = list(self._connections.values())
            self._connections.clear()
            return connections

    def _connection(self, target: Target) -> C:
        with self._lock:
            if self._has_ended:
                raise RuntimeError("this client was closed")
            connection = self._connections.get(target)
            if connection is None:
                connection = self._connections[target] = self._make(target)
            return connection
