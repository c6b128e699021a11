"""The one mechanism that repeats calls. gRPC's own is off: it ignores what the server asks for and
silently leaves out requests over 256 KiB, which those with pictures are.

Only UNAVAILABLE is repeated: the server could not be reached, is not ready, or its queue is full.
Everything else would fail again, or has cost the critic time already.
"""

import asyncio
import copy
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import Final, TypeAlias, TypeVar

import grpc

from adjudge_reranker.errors import RewardError

T = TypeVar("T")


class NotGiven(Enum):
    """Stands for an option that was left out, where None already means something."""

    NOT_GIVEN = "not given"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN

Timeout: TypeAlias = float | NotGiven | None
"""Seconds for a whole call, repetitions and pauses included; None for no limit; left out for the
client's own."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to pause before calling again: a random time up to a bound that doubles each time.

    What the server asks for (RetryInfo) comes on top, so that callers that were told the same do
    not all come back at the same moment.
    """

    initial_backoff_seconds: float = 0.1
    """The first bound."""
    max_backoff_seconds: float = 5.0
    """The last bound."""
    max_attempts: int | None = None
    """Calls altogether; 1 never repeats. None: as many as the timeout allows, so that a call
    without a timeout waits for its server forever."""

    def __post_init__(self) -> None:
        if not 0 <= self.initial_backoff_seconds <= self.max_backoff_seconds < math.inf:
            raise ValueError("backoff must satisfy 0 <= initial <= max, in seconds")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")

    def backoff_bound(self, num_failures: int) -> float:
        """Seconds; `num_failures` is at least 1."""
        # The exponent is bounded because a float is: a patient caller can fail 10,000 times.
        doubled = self.initial_backoff_seconds * 2.0 ** min(num_failures - 1, 64)
        return min(doubled, self.max_backoff_seconds)


class Budget:
    """The time and the attempts that one call may spend. Starts to run when it is made."""

    def __init__(
        self,
        timeout: float | None,
        policy: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self._num_failures = 0
        self._end = None if timeout is None else clock() + checked_timeout(timeout)

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None for no limit."""
        return None if self._end is None else max(self._end - self._clock(), 0.0)

    def part(self) -> "Budget":
        """A budget with the same end and attempts of its own, for a part of the call."""
        part = copy.copy(self)
        part._num_failures = 0
        return part

    def pause_after(self, error: RewardError, *, elsewhere: bool = False) -> float:
        """Seconds to wait before the next attempt; none if it goes `elsewhere`, to another server.

        Raises `error` if there must be none: repeating cannot help, the attempts are used up, or
        the pause would outlast the time that is left.
        """
        self._num_failures += 1
        if error.code is not grpc.StatusCode.UNAVAILABLE:
            raise error
        if (
            self._policy.max_attempts is not None
            and self._num_failures >= self._policy.max_attempts
        ):
            raise error
        if elsewhere and self.remaining() != 0.0:
            return 0.0
        bound = self._policy.backoff_bound(self._num_failures)
        pause = (error.retry_after_seconds or 0.0) + self._uniform(0.0, bound)
        remaining = self.remaining()
        if remaining is not None and pause >= remaining:
            raise error
        return pause


def run(
    attempt: Callable[[float | None], T],
    budget: Budget,
    sleep: Callable[[float], None] = time.sleep,
    elsewhere: Callable[[], bool] = lambda: False,
) -> T:
    """Calls `attempt` with the seconds left until it succeeds. Raises its last RewardError.

    After a failure `elsewhere` says whether the next attempt would go to another server that has
    not failed, so that there is no reason to pause.
    """
    while True:
        try:
            return attempt(budget.remaining())
        except RewardError as error:
            pause = budget.pause_after(error, elsewhere=elsewhere())
        sleep(pause)


async def run_async(
    attempt: Callable[[float | None], Awaitable[T]],
    budget: Budget,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    elsewhere: Callable[[], bool] = lambda: False,
) -> T:
    """The same, without blocking the event loop."""
    while True:
        try:
            return await attempt(budget.remaining())
        except RewardError as error:
            pause = budget.pause_after(error, elsewhere=elsewhere())
        await sleep(pause)


def checked_timeout(timeout: float) -> float:
    """Raises TypeError or ValueError unless `timeout` is a positive finite number of seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be positive and finite, or None for no limit: {timeout}")
    return timeout


def resolve_timeout(timeout: Timeout, default: float | None) -> float | None:
    """The timeout of a call: the one it was given, or else the client's. Raises TypeError or
    ValueError for what is none."""
    if isinstance(timeout, NotGiven):
        return default
    return None if timeout is None else checked_timeout(timeout)
