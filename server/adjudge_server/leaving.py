"""CPU work in other threads, for a caller who may leave before it is done.

A thread cannot be interrupted. What has begun ends where it looks whether anybody still waits,
between two items; what has not begun is never begun.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TypeVar

R = TypeVar("R")

_left: ContextVar[threading.Event] = ContextVar("left")


class CallerLeft(Exception):
    """Nobody waits for what is being done; so nobody is told of this either."""


def check() -> None:
    """To be called between two items of work. Raises CallerLeft."""
    left = _left.get(None)
    if left is not None and left.is_set():
        raise CallerLeft


async def run_in(pool: Executor, function: Callable[[], R]) -> R:
    """Runs a function in the pool. Cancelling whoever awaits this tells `check` there."""
    left = threading.Event()

    def work() -> R:
        _left.set(left)
        return function()

    # In a context of its own, for the thread's goes on to the next function.
    in_context = partial(copy_context().run, work)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, in_context)
    except asyncio.CancelledError:
        left.set()
        raise
