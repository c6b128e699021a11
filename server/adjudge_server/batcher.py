"""One queue, one model thread: batches by tokens, honours deadlines and cancellation.

Callers submit prepared items and hold a future for each. The thread takes items in the order they
came, as many as fit the token budget, and gives them to the critic together. It knows neither
protobuf nor torch, only `Prepared` and `Reading`.

Nothing that waits is computed for nobody: a future that was cancelled, or whose deadline has
passed, is dropped when its turn comes. An exception in a batch of several is narrowed down by
running its items one by one, so that it costs only the item that causes it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from adjudge_server.critic import Prepared, Reading
from adjudge_server.errors import AdjudgeError, DeadlineExceeded, NotReady, QueueFull, as_failure

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=Prepared)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Answered:
    """A reading and how long it took."""

    reading: Reading
    queue_seconds: float
    inference_seconds: float
    """Of the whole batch that the item was in."""


@dataclass(slots=True)
class _Waiting(Generic[P]):
    item: P
    tokens: int
    """What it counts for in the queue."""
    future: "Future[Answered]"
    deadline: float | None
    since: float


@dataclass(slots=True)
class _Task:
    """Something else that must run on the model's thread, such as one step of a critique."""

    run: Callable[[], None]


class Batcher(Generic[P]):
    """Owns the model thread. Thread-safe.

    `forward` is the critic's. `max_batch_tokens` bounds a batch, a shared prefix counted once; an
    item larger than that runs alone. `max_queue_tokens` bounds what waits; a request that comes to
    an empty queue is always accepted, or it could never be. `clock` is in seconds.
    """

    def __init__(
        self,
        forward: Callable[[Sequence[P]], Sequence[Reading]],
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forward = forward
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._clock = clock
        self._queue: deque[_Waiting[P] | _Task] = deque()
        self._queued_tokens = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[P], deadline: float | None = None) -> "list[Future[Answered]]":
        """Queues all items or none; one future per item, in order.

        `deadline` is on the batcher's clock. Raises QueueFull or NotReady (draining). Futures fail
        with DeadlineExceeded (never computed) or CriticFailure.
        """
        now = self._clock()
        waiting = [
            _Waiting(item, tokens, Future(), deadline, now)
            for item, tokens in zip(items, _counted(items), strict=True)
        ]
        tokens = sum(w.tokens for w in waiting)
        with self._changed:
            self._refuse_when_closing()
            if self._is_full(tokens):
                self._drop_cancelled()
            if self._is_full(tokens):
                raise QueueFull(
                    f"{self._queued_tokens} tokens wait already, {self._max_queue_tokens} may",
                    limit="max_queue_tokens",
                    maximum=self._max_queue_tokens,
                )
            self._queued_tokens += tokens
            self._queue.extend(waiting)
            self._changed.notify()
        return [w.future for w in waiting]

    def call(self, function: Callable[[], R]) -> "Future[R]":
        """Runs a function on the model's thread when its turn comes, between batches."""
        future: Future[R] = Future()
        with self._changed:
            self._refuse_when_closing()
            self._queue.append(_Task(lambda: _run_into(future, function)))
            self._changed.notify()
        return future

    @property
    def queued_tokens(self) -> int:
        return self._queued_tokens

    def close(self) -> None:
        """Refuses new work, finishes what was accepted, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _is_full(self, tokens: int) -> bool:
        full = self._queued_tokens + tokens > self._max_queue_tokens
        return full and tokens > 0 and self._queued_tokens > 0

    def _drop_cancelled(self) -> None:
        kept = [w for w in self._queue if isinstance(w, _Task) or not w.future.cancelled()]
        self._queue = deque(kept)
        self._queued_tokens = sum(w.tokens for w in kept if isinstance(w, _Waiting))

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise NotReady("the server is draining")

    def _run(self) -> None:
        while (work := self._take()) is not None:
            if isinstance(work, _Task):
                work.run()
            elif work:
                self._answer(work)
            del work  # while waiting for more, nothing of what is done is kept alive

    def _take(self) -> "list[_Waiting[P]] | _Task | None":
        """The next task, or the next batch (empty if all of it had been given up); None at the end.

        Blocks while there is nothing to do.
        """
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            if isinstance(self._queue[0], _Task):
                task = self._queue.popleft()
                assert isinstance(task, _Task)
                return task
            return self._take_batch()

    def _take_batch(self) -> "list[_Waiting[P]]":
        batch: list[_Waiting[P]] = []
        groups: set[str] = set()
        tokens = 0
        while self._queue and isinstance(waiting := self._queue[0], _Waiting):
            cost = waiting.item.own_tokens
            cost += 0 if waiting.item.group in groups else waiting.item.shared_tokens
            if batch and tokens + cost > self._max_batch_tokens:
                break
            self._queue.popleft()
            self._queued_tokens -= waiting.tokens
            if self._is_wanted(waiting):
                batch.append(waiting)
                groups.add(waiting.item.group)
                tokens += cost
        return batch

    def _is_wanted(self, waiting: "_Waiting[P]") -> bool:
        if not waiting.future.set_running_or_notify_cancel():
            return False
        if waiting.deadline is not None and waiting.deadline <= self._clock():
            waiting.future.set_exception(
                DeadlineExceeded("the deadline passed while the item waited; it was not computed")
            )
            return False
        return True

    def _answer(self, batch: "list[_Waiting[P]]") -> None:
        started = self._clock()
        failure: AdjudgeError | None = None
        try:
            readings = list(self._forward([w.item for w in batch]))
            if len(readings) != len(batch):
                raise RuntimeError(f"{len(readings)} readings for {len(batch)} items")
        except Exception as error:
            logger.exception("the critic failed on a batch of %d", len(batch))
            # Without its traceback, which would keep what the failed pass had allocated.
            failure = as_failure(error.with_traceback(None))
        if failure is not None:
            if len(batch) == 1:
                batch[0].future.set_exception(failure)
            for waiting in batch if len(batch) > 1 else ():
                self._answer([waiting])
            return
        seconds = self._clock() - started
        for waiting, reading in zip(batch, readings, strict=True):
            waiting.future.set_result(Answered(reading, started - waiting.since, seconds))


def _counted(items: Sequence[Prepared]) -> list[int]:
    """Tokens of each item; what a group shares counts with the first of it."""
    seen: set[str] = set()
    tokens = []
    for item in items:
        tokens.append(item.own_tokens + (0 if item.group in seen else item.shared_tokens))
        seen.add(item.group)
    return tokens


def _run_into(future: "Future[R]", function: Callable[[], R]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
