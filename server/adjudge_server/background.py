"""Long work beside an event loop."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from adjudge_server.errors import as_failure

logger = logging.getLogger(__name__)

R = TypeVar("R")


def as_exception(function: Callable[[], R]) -> R:
    """Calls it. Raises CriticFailure for what is no Exception, such as a panic in a tokenizer's
    Rust, which would otherwise pass every handler by and leave its caller without a status."""
    try:
        return function()
    except Exception:
        raise
    except BaseException as error:
        logger.exception("beside the model")
        raise as_failure(error) from error


async def outcomes_of(futures: "Sequence[Future[R]]") -> list[R | BaseException]:
    """What came of each, once all are done: the loop is woken once, by the last. Cancelling whoever
    awaits this cancels them."""
    loop = asyncio.get_running_loop()
    all_done = asyncio.Event()
    left = len(futures)
    counting = threading.Lock()

    def count(_: object) -> None:
        nonlocal left
        with counting:
            left -= 1
        if left == 0:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(all_done.set)

    try:
        for future in futures:
            future.add_done_callback(count)
        if futures:
            await all_done.wait()
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    return [
        asyncio.CancelledError() if f.cancelled() else f.exception() or f.result() for f in futures
    ]


async def in_daemon_thread(function: Callable[[], R]) -> R:
    """Runs a function in a thread that does not keep the process alive: a server told to stop while
    it loads gigabytes stops."""
    return await asyncio.wrap_future(start_daemon_thread(function, name="load"))


def start_daemon_thread(function: Callable[[], R], *, name: str) -> "Future[R]":
    """Starts a function in a thread that does not keep the process alive."""
    future: Future[R] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
