"""What the batcher has accepted: items and functions, and the futures that callers wait for.

A future may be settled from two sides: by the model's thread when the work is done, and by whoever
gave up on that thread. The first one counts.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from adjudge_server.critic import Prepared, Reading
from adjudge_server.errors import AdjudgeError, CriticFailure, as_failure

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=Prepared)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and until when."""

    name: str
    """Callers take turns."""
    deadline: float | None = None
    """On the batcher's clock."""
    epoch: int | None = None
    """Of the weights that are to answer; None for any."""
    size: int = 0
    """Bytes of the request, by which two of one caller are compared; 0 where they are not."""


ANYBODY = Caller("")


@dataclass(frozen=True, slots=True)
class Answered:
    """A reading and how long it took."""

    reading: Reading
    queue_seconds: float
    inference_seconds: float
    """Of the whole batch that the item was in."""


@dataclass(slots=True)
class Waiting(Generic[P]):
    """An item in the queue."""

    item: P
    tokens: int
    """What it counts for in the queue."""
    future: "Future[Answered]"
    caller: Caller
    since: float
    request: object
    """The same for all of one request."""


@dataclass(slots=True)
class Task:
    """A function for the model's thread."""

    function: Callable[[], Any]
    future: "Future[Any] | None"
    """None where it must be run in any case: nobody waits for it, and nobody can give it up."""

    def run(self) -> bool | None:
        """On the model's thread. Whether it shows a critic that is well; None where it shows
        nothing."""
        if self.future is None:
            try:
                self.function()
            except BaseException:
                logger.exception("what was left could not be freed")
            return None
        if not self.future.set_running_or_notify_cancel():
            return None
        try:
            settle(self.future, self.function())
        except BaseException as error:
            # What is no Exception, such as a panic in Rust, would end the loop of whoever waits.
            fail(self.future, error if isinstance(error, Exception) else as_failure(error))
            return not is_ours(error)
        return True


def settle(future: "Future[R]", result: R) -> None:
    with suppress(InvalidStateError):
        future.set_result(result)


def fail(future: "Future[Any]", error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)


def is_ours(error: BaseException) -> bool:
    """Whether the critic is at fault, rather than what it was asked."""
    return isinstance(as_failure(error), CriticFailure)


def error_like(error: AdjudgeError) -> AdjudgeError:
    """The same for another caller: an exception that is raised in two places gathers the tracebacks
    of both."""
    copy = type(error)(error.message)
    copy.metadata = error.metadata
    return copy
