"""How many calls of a client are in flight at a time. The wait for a slot is part of the call."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import grpc

from adjudge_reranker.errors import DeadlineExceeded
from adjudge_reranker.retry import Budget

DEFAULT_MAX_IN_FLIGHT: Final = 64
"""Enough to keep a server's batches full, and few enough for its queue."""


class Slots:
    """Shared by the threads of one process."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._free = threading.Semaphore(max_in_flight)

    @contextmanager
    def one(self, budget: Budget) -> Iterator[None]:
        """A slot inside the block. Raises DeadlineExceeded if none is free in time."""
        remaining = budget.remaining()
        timeout = None if remaining is None else min(remaining, threading.TIMEOUT_MAX)
        if not self._free.acquire(timeout=timeout):
            raise _crowded(self._max_in_flight)
        try:
            yield
        finally:
            self._free.release()


class AsyncSlots:
    """Shared by the tasks of one event loop."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._free = asyncio.Semaphore(max_in_flight)

    @asynccontextmanager
    async def one(self, budget: Budget) -> AsyncIterator[None]:
        """The same, without blocking the event loop."""
        try:
            async with asyncio.timeout(budget.remaining()):
                await self._free.acquire()
        except TimeoutError as error:
            raise _crowded(self._max_in_flight) from error
        try:
            yield
        finally:
            self._free.release()


def checked_max_in_flight(value: int) -> int:
    """Raises ValueError unless it is at least 1."""
    if value < 1:
        raise ValueError(f"max_in_flight must be at least 1, not {value}")
    return value


def _crowded(max_in_flight: int) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the timeout passed while {max_in_flight} other calls of this client were in flight",
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
        metadata={"max_in_flight": str(max_in_flight)},
    )
