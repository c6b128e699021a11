"""A caller that does not read must not hold what others wait for.

gRPC takes an event off our hands only when the caller's flow-control window has room for it: a
handler that yields to a caller that no longer reads is not resumed.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc.aio

from adjudge_server.errors import DeadlineExceeded
from adjudge_server.handling import Context, abort

logger = logging.getLogger(__name__)

_farewells: "set[asyncio.Task[None]]" = set()
"""Event loops forget tasks that nobody else remembers."""


@contextmanager
def taken_within(seconds: float, context: Context) -> Iterator[None]:
    """Ends the call that this task answers if what is within, one `yield` to gRPC, lasts longer.
    The caller finds a typed DEADLINE_EXCEEDED behind the events that it did not read."""
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(seconds, _end, task, seconds, context)
    try:
        yield
    finally:
        timer.cancel()


def _end(task: "asyncio.Task[Any]", seconds: float, context: Context) -> None:
    logger.info("a call is ended: its caller read nothing for %g s", seconds)
    farewell = asyncio.ensure_future(_say(context, seconds))
    _farewells.add(farewell)
    farewell.add_done_callback(_farewells.discard)
    # After the first step of the farewell, which gives the call its status: gRPC gives none to a
    # call whose task was cancelled, and its caller would wait for ever.
    asyncio.get_running_loop().call_soon(task.cancel)


async def _say(context: Context, seconds: float) -> None:
    error = DeadlineExceeded(f"what was sent was not read within {seconds:g} s")
    # It stands in line behind the event; the caller may leave, or the server end, before its turn.
    with suppress(grpc.aio.AbortError, grpc.aio.UsageError, grpc.aio.InternalError):
        await abort(context, error)
