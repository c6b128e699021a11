"""One queue, one model thread: batches by tokens, honours deadlines and cancellation.

Callers submit prepared items and hold a future for each. The thread takes items as it is their turn
(`fair_queue`), as many as fit the token budget, and gives them to the critic together: of several
requests no more than make a pass efficient, because while everybody waits for one batch nobody
prepares the next. Between two
batches it does what else must be done on this thread, such as one step of each critique that is
being written; between two rounds of that, a batch, so that neither holds up the other. It knows
neither protobuf nor torch, only `Prepared` and `Reading`.

Nothing that waits is computed for nobody: a future that was cancelled, whose deadline has passed,
or that belongs to weights that are gone, is dropped when its turn comes. A batch that fails is
halved until it is known which items fail by themselves, so that it costs only those; one that runs
out of memory is first tried again with what was remembered of earlier batches forgotten.
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
from adjudge_server.errors import (
    AdjudgeError,
    DeadlineExceeded,
    NotReady,
    QueueFull,
    WrongEpoch,
    as_failure,
)
from adjudge_server.fair_queue import FairQueue

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


ANYBODY = Caller("")


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
    caller: Caller
    since: float
    request: object
    """The same for all of one request."""


class _WrongNumber(RuntimeError):
    """Of readings, by the critic's fault."""


class Batcher(Generic[P]):
    """Owns the model thread. Thread-safe.

    `forward` is the critic's, and so is `forget`, which frees memory. `max_batch_tokens` bounds a
    batch, a shared prefix counted once; an item larger than that runs alone. A batch that has
    `enough_tokens` beside shared prefixes, which may be known, takes no further request; a turn in
    the queue is as long. None: as many as fit, item by item. `max_queue_tokens`
    bounds what waits; a request that comes to an empty queue is always accepted, or it could never
    be. `clock` is in seconds.
    """

    def __init__(
        self,
        forward: Callable[[Sequence[P]], Sequence[Reading]],
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        enough_tokens: int | None = None,
        forget: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forward = forward
        self._forget = forget
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._enough_tokens = enough_tokens
        self._clock = clock
        self._queue: FairQueue[_Waiting[P]] = FairQueue(enough_tokens or 0)
        self._tasks: deque[Callable[[], None]] = deque()
        self._queued_tokens = 0
        self._changed = threading.Condition()
        self._closing = False
        self.epoch = 0
        """Of the weights. Only a function on the model's thread (see `call`) may change it."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[P], caller: Caller = ANYBODY) -> "list[Future[Answered]]":
        """Queues all items of a request or none; one future per item, in order.

        Raises QueueFull or NotReady (draining). Futures fail with DeadlineExceeded or WrongEpoch
        (never computed), or CriticFailure.
        """
        now = self._clock()
        request = object()
        waiting = [
            _Waiting(item, tokens, Future(), caller, now, request)
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
            self._queue.add(caller.name, waiting)
            self._changed.notify()
        return [w.future for w in waiting]

    def call(self, function: Callable[[], R], epoch: int | None = None) -> "Future[R]":
        """Runs a function on the model's thread after the batch that runs, before the next but
        one. The future fails with WrongEpoch, and nothing is run, in another epoch than this."""
        future: Future[R] = Future()

        def checked() -> R:
            if error := self._wrong_epoch(epoch):
                raise error
            return function()

        with self._changed:
            self._refuse_when_closing()
            self._tasks.append(lambda: _run_into(future, checked))
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
        self._queue.keep(lambda waiting: not waiting.future.cancelled())
        self._queued_tokens = sum(waiting.tokens for waiting in self._queue)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise NotReady("the server is draining")

    def _run(self) -> None:
        while self._wait():
            with self._changed:
                tasks, self._tasks = self._tasks, deque()
            while tasks:
                tasks.popleft()()
            with self._changed:
                batch = self._take_batch()
            if batch:
                self._answer(batch)
            del tasks, batch  # while waiting for more, nothing of what is done is kept alive

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            while not self._queue and not self._tasks:
                if self._closing:
                    return False
                self._changed.wait()
            return True

    def _take_batch(self) -> "list[_Waiting[P]]":
        batch: list[_Waiting[P]] = []
        groups: set[str] = set()
        tokens = own_tokens = 0
        while self._queue:
            waiting = self._queue.next
            cost = waiting.item.own_tokens
            cost += 0 if waiting.item.group in groups else waiting.item.shared_tokens
            if batch and tokens + cost > self._max_batch_tokens:
                break
            if batch and batch[-1].request is not waiting.request and self._is_enough(own_tokens):
                break
            wanted = self._is_wanted(waiting)
            self._queue.pop(cost if wanted else 0)
            self._queued_tokens -= waiting.tokens
            if wanted:
                batch.append(waiting)
                groups.add(waiting.item.group)
                tokens += cost
                own_tokens += waiting.item.own_tokens
        return batch

    def _is_enough(self, own_tokens: int) -> bool:
        return self._enough_tokens is not None and own_tokens >= self._enough_tokens

    def _is_wanted(self, waiting: "_Waiting[P]") -> bool:
        if not waiting.future.set_running_or_notify_cancel():
            return False
        caller = waiting.caller
        error: AdjudgeError | None = self._wrong_epoch(caller.epoch)
        if caller.deadline is not None and caller.deadline <= self._clock():
            error = DeadlineExceeded(
                "the deadline passed while the item waited; it was not computed"
            )
        if error is not None:
            waiting.future.set_exception(error)
        return error is None

    def _wrong_epoch(self, epoch: int | None) -> WrongEpoch | None:
        """On the model's thread."""
        if epoch in (None, self.epoch):
            return None
        return WrongEpoch(
            f"the weights moved meanwhile: the epoch is {self.epoch}",
            field="expected_epoch",
            expected=epoch,
            actual=self.epoch,
        )

    def _answer(self, batch: "list[_Waiting[P]]", *, has_room: bool = False) -> None:
        """`has_room`: everything that could be forgotten for it has been."""
        started = self._clock()
        failure: Exception | None = None
        try:
            readings = list(self._forward([w.item for w in batch]))
            if len(readings) != len(batch):
                raise _WrongNumber(f"{len(readings)} readings for {len(batch)} items")
        except Exception as error:
            logger.exception("the critic failed on a batch of %d", len(batch))
            # Without its traceback, which would keep what the failed pass had allocated.
            failure = error.with_traceback(None)
        if failure is not None:
            self._answer_after(failure, batch, has_room)
            return
        seconds = self._clock() - started
        for waiting, reading in zip(batch, readings, strict=True):
            waiting.future.set_result(Answered(reading, started - waiting.since, seconds))

    def _answer_after(self, failure: Exception, batch: "list[_Waiting[P]]", has_room: bool) -> None:
        if isinstance(failure, MemoryError) and not has_room:
            self._forget()
            self._answer(batch, has_room=True)
        elif len(batch) == 1:
            batch[0].future.set_exception(as_failure(failure))
        else:
            # Whoever cannot count is not believed about several.
            size = 1 if isinstance(failure, _WrongNumber) else -(-len(batch) // 2)
            for start in range(0, len(batch), size):
                self._answer(batch[start : start + size], has_room=has_room)


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
