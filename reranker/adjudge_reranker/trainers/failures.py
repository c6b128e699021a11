"""What becomes of a completion that has no reward. Whatever is chosen, never a number."""

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import grpc

from adjudge_reranker.errors import (
    CriticUnreadable,
    DeadlineExceeded,
    ErrorReason,
    RequestRefused,
    RewardError,
    ServerFault,
    ServerUnavailable,
    is_of_another_model,
)
from adjudge_reranker.retry import RetryPolicy, checked_timeout


class OnFailure(StrEnum):
    """What a reward callable does about completions without a reward."""

    NONE = "none"
    """None in their places."""
    NAN = "nan"
    """NaN in their places, for trainers that take only floats; see what yours makes of it."""
    RAISE = "raise"
    """Raises the RewardError of the first."""
    WAIT = "wait"
    """Asks again, with growing pauses, until the server is back; raises if it is not back in time.
    What waiting cannot mend, such as a completion that is too long for the critic, is treated as
    the adapter's documentation says."""


_MISTAKES: Final = frozenset(
    {ErrorReason.UNKNOWN_TEMPLATE, ErrorReason.UNKNOWN_MODEL, ErrorReason.UNSUPPORTED_OPERATION}
)
_MISTAKEN_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

FAILURE_KINDS: Final[dict[type[RewardError], str]] = {
    RequestRefused: "refused",
    CriticUnreadable: "unreadable",
    ServerUnavailable: "unavailable",
    DeadlineExceeded: "too_slow",
    ServerFault: "fault",
}
"""Short names of the kinds of failure, for logs. Few and fixed, so that every process of a trainer
logs the same ones."""


def is_mistake(error: RewardError) -> bool:
    """Whether the settings are wrong, which fails every sample of every batch alike: raised under
    every policy, because a run without a single reward is not what anybody chose."""
    return error.reason in _MISTAKES or error.code in _MISTAKEN_CODES or is_of_another_model(error)


def may_pass(error: RewardError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ServerUnavailable | DeadlineExceeded):
        return True
    # Without a reason of Adjudge's own: a connection that broke while its server was killed.
    return (
        isinstance(error, ServerFault) and error.reason is None and not is_of_another_model(error)
    )


def explain(error: RewardError) -> str:
    """The reason, or the code of a failure that is not Adjudge's own."""
    return error.reason or error.code.name


class Patience:
    """The time that one batch may wait for its server. Starts to run when it is made.

    Shared by the batch's requests. Safe to share between threads.
    """

    def __init__(
        self,
        max_wait_seconds: float | None,
        backoff: RetryPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """None waits without limit. Raises ValueError unless the limit is positive and finite."""
        self._clock = clock
        self._uniform = uniform
        self._backoff = backoff or RetryPolicy()
        limit = math.inf if max_wait_seconds is None else checked_timeout(max_wait_seconds)
        self._end = clock() + limit
        self._stopped = threading.Event()

    def pause_after(self, errors: Sequence[RewardError], num_attempts: int) -> float | None:
        """Seconds to wait before asking again; None if that cannot help.

        Raises the error that could have passed if the pause would outlast the time that is left.
        """
        passing = [error for error in errors if may_pass(error)]
        if not passing:
            return None
        bound = self._backoff.backoff_bound(num_attempts)
        asked = max((error.retry_after_seconds or 0.0) for error in passing)
        pause = asked + self._uniform(0.5 * bound, bound)
        if self._stopped.is_set() or self._clock() + pause >= self._end:
            raise passing[0]
        return pause

    def sleep(self, seconds: float) -> None:
        """Returns early if `stop` is called."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """Ends all waiting: the batch is given up."""
        self._stopped.set()
