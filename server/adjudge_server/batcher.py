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

Nobody waits for ever: where the thread has died, or somebody else finds that it hangs, all that was
accepted fails, and new work is refused.
"""

import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from adjudge_server.accepted import (
    ANYBODY,
    Answered,
    Caller,
    Task,
    Waiting,
    error_like,
    fail,
    is_ours,
    settle,
)
from adjudge_server.critic import Prepared, Reading, SomeFailed
from adjudge_server.errors import (
    AdjudgeError,
    CriticFailure,
    DeadlineExceeded,
    NotReady,
    WrongEpoch,
    as_failure,
)
from adjudge_server.fair_queue import FairQueue
from adjudge_server.queue_room import QueueRoom

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=Prepared)
R = TypeVar("R")


WatchBatch = Callable[[int, int, float, bool], None]
"""Told on the model's thread of each batch: items, tokens, seconds, and whether it succeeded. May
not raise."""


class _WrongNumber(RuntimeError):
    """Of readings, by the critic's fault."""


class Batcher(Generic[P]):
    """Owns the model thread. Thread-safe.

    `forward` is the critic's, and so is `forget`, which frees memory. `max_batch_tokens` bounds a
    batch, a shared prefix counted once; an item larger than that runs alone. A batch that has
    `enough_tokens` beside shared prefixes, which may be known, takes no further request; a turn in
    the queue is as long. None: as many as fit, item by item. `max_queue_tokens`
    bounds what waits, see `queue_room`. `clock` is in seconds.
    """

    def __init__(
        self,
        forward: Callable[[Sequence[P]], Sequence[Reading]],
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        enough_tokens: int | None = None,
        forget: Callable[[], None] = lambda: None,
        watch: WatchBatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forward = forward
        self._forget = forget
        self._watch = watch
        self._max_batch_tokens = max_batch_tokens
        self._enough_tokens = enough_tokens
        self._clock = clock
        self._queue: FairQueue[Waiting[P]] = FairQueue(enough_tokens or 0)
        self._room = QueueRoom(max_queue_tokens)
        self._tasks: deque[Task] = deque()
        self._round: deque[Task] = deque()
        """Of the tasks, those that come before the next batch."""
        self._running: list[Future[Any]] = []
        """Of what the thread is at."""
        self._busy_since: float | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._refusal: str | None = None
        """Why new work is refused."""
        self.failures_in_a_row = 0
        """Batches and functions of which nothing came, by the critic's fault."""
        self.has_died = False
        self.epoch = 0
        """Of the weights. Only a function on the model's thread (see `call`) may change it."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[P], caller: Caller = ANYBODY) -> "list[Future[Answered]]":
        """Queues all items of a request or none; one future per item, in order.

        Raises QueueFull or NotReady (draining, or the thread hangs or has died). Futures fail with
        DeadlineExceeded or WrongEpoch (never computed), CriticFailure, or what `abandon` was given.
        """
        now = self._clock()
        request = object()
        waiting = [
            Waiting(item, tokens, Future(), caller, now, request)
            for item, tokens in zip(items, _counted(items), strict=True)
        ]
        tokens = sum(w.tokens for w in waiting)
        with self._changed:
            self._check_open()
            if self._room.is_full(caller, tokens):
                self._drop_cancelled()
            if self._room.is_full(caller, tokens):
                raise self._room.refuse(caller)
            if waiting:
                self._room.take(caller, tokens)
                self._queue.add(caller.name, waiting)
                self._changed.notify()
        return [w.future for w in waiting]

    def check_room(self, caller: Caller) -> None:
        """Raises QueueFull where `submit` refused this caller a request that had no more bytes, and
        nothing has left the queue since. Before a request is prepared, so that who is refused does
        not keep others from being prepared. Bytes are not tokens: one with more bytes and fewer
        tokens may be refused here until the next batch, where `submit` would have taken it."""
        with self._changed:
            self._room.check(caller)

    def call(self, function: Callable[[], R], epoch: int | None = None) -> "Future[R]":
        """Runs a function on the model's thread after the batch that runs, before the next but
        one. The future fails with WrongEpoch, and nothing is run, in another epoch than this.
        Raises NotReady."""
        future: Future[R] = Future()

        def checked() -> R:
            if error := self._wrong_epoch(epoch):
                raise error
            return function()

        with self._changed:
            self._check_open()
            self._tasks.append(Task(checked, future))
            self._changed.notify()
        return future

    def release(self, function: Callable[[], object]) -> None:
        """Runs a function on the model's thread as soon as that is possible, to free what it holds.
        Never raises."""
        with self._changed:
            self._tasks.append(Task(function, None))
            self._changed.notify()

    @property
    def queued_tokens(self) -> int:
        return self._room.tokens

    @property
    def busy_seconds(self) -> float:
        """How long the thread has been at one pass of the model, or at one function."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    @property
    def doing(self) -> str:
        """Where the thread is in the code, for the log."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "" if frame is None else "".join(traceback.format_stack(frame))

    def abandon(self, error: AdjudgeError, refusal: str) -> None:
        """Fails all that waits and all that runs; from now on new work is refused with NotReady.
        From any thread: it does not wait for the model's."""
        with self._changed:
            self._refusal = refusal
            tasks = [*self._round, *self._tasks]
            futures = [*self._running, *(waiting.future for waiting in self._queue)]
            futures += [task.future for task in tasks if task.future is not None]
            self._round = deque()
            self._tasks = deque(task for task in tasks if task.future is None)
            self._queue.keep(lambda _: False)
            self._room.count(self._queue)
            self._running = []
            self._changed.notify()
        for future in futures:
            fail(future, error_like(error))

    def resume(self) -> None:
        """Takes new work again, if the thread lives and is not being closed."""
        with self._changed:
            if not (self._closing or self.has_died):
                self._refusal = None

    def close(self, seconds: float | None = None) -> None:
        """Refuses new work, finishes what was accepted, and ends the thread; waits no longer for it
        than that, if it is said."""
        with self._changed:
            self._closing, self._refusal = True, "the server is draining"
            self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.error("the model's thread hangs, and is left behind:\n%s", self.doing)

    def _drop_cancelled(self) -> None:
        self._queue.keep(lambda waiting: not waiting.future.cancelled())
        self._room.count(self._queue)

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise NotReady(self._refusal)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:  # not the critic's, whose failures are caught where it is called
            logger.critical("the model's thread has died", exc_info=True)
            with self._changed:
                self.has_died, self._busy_since = True, None
            died = "the model's thread has died"
            self.abandon(CriticFailure(died), refusal=died)

    def _work(self) -> None:
        while self._wait():
            with self._changed:
                self._round, self._tasks = self._tasks, deque()
            while task := self._next_task():
                self._busy_since = self._clock()
                self._note(task.run())
            del task
            with self._changed:
                batch = self._take_batch()
                self._running = [waiting.future for waiting in batch]
            if batch:
                self._note(self._answer(batch))
            self._busy_since, self._running = None, []
            del batch  # while waiting for more, nothing of what is done is kept alive

    def _next_task(self) -> Task | None:
        with self._changed:
            task = self._round.popleft() if self._round else None
            future = None if task is None else task.future
            self._running = [] if future is None else [future]
            return task

    def _note(self, is_well: bool | None) -> None:
        if is_well is not None:
            self.failures_in_a_row = 0 if is_well else self.failures_in_a_row + 1

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            while not self._queue and not self._tasks:
                if self._closing:
                    return False
                self._changed.wait()
            return True

    def _take_batch(self) -> "list[Waiting[P]]":
        batch: list[Waiting[P]] = []
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
            self._room.release(waiting)
            if wanted:
                batch.append(waiting)
                groups.add(waiting.item.group)
                tokens += cost
                own_tokens += waiting.item.own_tokens
        return batch

    def _is_enough(self, own_tokens: int) -> bool:
        return self._enough_tokens is not None and own_tokens >= self._enough_tokens

    def _is_wanted(self, waiting: "Waiting[P]") -> bool:
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

    def _answer(self, batch: "list[Waiting[P]]", *, has_room: bool = False) -> bool:
        """Whether anything came of it, or would have if it were not for the items. `has_room`:
        everything that could be forgotten for it has been."""
        self._busy_since = started = self._clock()
        failure: BaseException | None = None
        is_well = False
        try:
            readings = self._outcomes([w.item for w in batch])
            if len(readings) != len(batch):
                raise _WrongNumber(f"{len(readings)} readings for {len(batch)} items")
            is_well = any(map(_shows_a_well_critic, readings))
        except BaseException as error:  # a panic in Rust, for one, is no Exception
            logger.exception("the critic failed on a batch of %d", len(batch))
            # Without its traceback, which would keep what the failed pass had allocated.
            failure = error.with_traceback(None)
        seconds = self._clock() - started
        if self._watch is not None:
            tokens = sum(_counted([waiting.item for waiting in batch]))
            self._watch(len(batch), tokens, seconds, is_well)
        if failure is not None:
            return self._answer_after(failure, batch, has_room)
        for waiting, reading in zip(batch, readings, strict=True):
            if isinstance(reading, AdjudgeError):
                fail(waiting.future, error_like(reading))
            else:
                settle(waiting.future, Answered(reading, started - waiting.since, seconds))
        return is_well

    def _outcomes(self, items: Sequence[P]) -> "list[Reading | AdjudgeError]":
        try:
            return list(self._forward(items))
        except SomeFailed as failed:
            return list(failed.outcomes)

    def _answer_after(
        self, failure: BaseException, batch: "list[Waiting[P]]", has_room: bool
    ) -> bool:
        if isinstance(failure, MemoryError) and not has_room:
            try:
                self._forget()
            except Exception:  # a broken device
                logger.exception("what was remembered could not be forgotten")
            return self._answer(batch, has_room=True)
        if len(batch) == 1:
            fail(batch[0].future, as_failure(failure))
            return not is_ours(failure)
        # Whoever cannot count is not believed about several.
        size = 1 if isinstance(failure, _WrongNumber) else -(-len(batch) // 2)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        return any([self._answer(part, has_room=has_room) for part in parts])


def _counted(items: Sequence[Prepared]) -> list[int]:
    """Tokens of each item; what a group shares counts with the first of it."""
    seen: set[str] = set()
    tokens = []
    for item in items:
        tokens.append(item.own_tokens + (0 if item.group in seen else item.shared_tokens))
        seen.add(item.group)
    return tokens


def _shows_a_well_critic(outcome: Reading | AdjudgeError) -> bool:
    return outcome.is_finite if isinstance(outcome, Reading) else not is_ours(outcome)
