"""One soak: a server and everybody who calls it, in two phases, after each of which it is idle.

The first phase warms up: until the caches are full, and for a part of the time. What is idle after
it is what the end is compared with.
"""

import asyncio
import gc
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.server.watched import MIB, Watched, watched
from tests.soak.askers import (
    COMPARERS,
    SCORERS,
    Traffic,
    blocking,
    comparer,
    reader,
    scorer,
    visitor,
)
from tests.soak.bursts import MAX_QUEUE_TOKENS, bursts
from tests.soak.leavers import killed_clients, leaver, slow_reader
from tests.soak.questions import sample
from tests.soak.restarted import failing_over
from tests.soak.strangers import mistaken, stranger, wanderer
from tests.soak.tally import Tally
from tests.soak.truth import known
from tests.soak.watching import State, Watch

CALLERS: tuple[Callable[[Traffic], Coroutine[Any, Any, None]], ...] = (
    *([scorer] * SCORERS + [comparer] * COMPARERS),
    *(reader, blocking, visitor),
    *(stranger, mistaken, wanderer, leaver, killed_clients, slow_reader, bursts, failing_over),
)
WHO = {
    *("score", "compare", "critique", "blocking", "visit", "fail over"),
    *("stranger", "mistake", "wanderer", "slow reader", "burst"),
    *("client", "second server"),
    *("cancels", "hangs up", "has no time"),
}
"""What they are called in the tally."""
CACHES = {
    "--max-prefix-bytes": 8 * MIB,
    "--max-feature-bytes": 2 * MIB,
    "--max-retained-bytes": MIB,
    "--max-retained-total-bytes": MIB,
}
"""So small that they are full soon."""
CRITIQUED = 8
"""Of every so many whose truth is known, one has a known critique."""
FULL = 0.9
"""Of its bound, when a cache counts as full."""
WARM_UP = 0.2
"""Of the time, at least; twice that at most."""
PATIENCE = 10
"""Times the time, after which it is over even if some callers have had no answer."""


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a soak found."""

    tally: Tally
    warm: State
    """Idle after the warm-up."""
    ended: State
    """Idle at the end."""
    warming: tuple[State, ...]
    states: tuple[State, ...]
    """While there was work, after the warm-up."""
    caches_full: bool
    is_alive: bool
    complaints: tuple[str, ...]
    """Lines of its log that tell of what should not happen."""
    num_callers_failed: int


async def _calling(traffic: Traffic, watch: Watch, is_over: Callable[[], bool]) -> int:
    """All callers, until it is over and they have their answers. Returns how many failed, as no
    caller should."""
    looking = asyncio.create_task(watch.keep_looking())
    callers = [asyncio.create_task(caller(traffic)) for caller in CALLERS]
    failed = 0
    while not (is_over() or looking.done() or any(caller.done() for caller in callers)):
        await asyncio.sleep(0.5)
    traffic.stop.set()
    for result in await asyncio.gather(*callers, return_exceptions=True):
        if isinstance(result, BaseException):
            traffic.tally.failed("a caller", result)
            failed += 1
    looking.cancel()
    # Cycles of gRPC's own hold the connection of a call that was not read to its end.
    gc.collect()
    return failed


async def soak(
    seconds: float, num_pictures: int, num_known: int, say: Callable[[str], None]
) -> Soaked:
    """`num_pictures`: that are to be judged, at least; `num_known`: of which the truth is found
    before. That time comes on top, and so does that of what is in flight at the end."""
    say("finding the truth")
    numbers = sample(num_known)
    tally = Tally(known(numbers, numbers[::CRITIQUED]))
    port = free_port()
    flags = [text for flag, value in CACHES.items() for text in (flag, str(value))]
    flags += ["--max-queue-tokens", str(MAX_QUEUE_TOKENS), "--write-seconds", "5"]
    flags += ["--max-open-critiques", "4", "--metrics-listen", f"127.0.0.1:{port}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        watched(Path(folder) / "log", *flags) as server,
    ):
        watch = Watch(server, f"http://127.0.0.1:{port}/metrics")
        traffic = Traffic(server.address, tally, num_pictures / (0.8 * seconds))
        return await _soak(traffic, watch, server, seconds, say)


async def _soak(
    traffic: Traffic, watch: Watch, server: Watched, seconds: float, say: Callable[[str], None]
) -> Soaked:
    began = time.monotonic()
    reporting = asyncio.create_task(_report(traffic.tally, watch, say))

    def is_warm() -> bool:
        gone = (time.monotonic() - began) / seconds
        return gone > WARM_UP and (_is_full(watch) or gone > 2 * WARM_UP)

    failed = await _calling(traffic, watch, is_warm)
    full, warming = _is_full(watch), tuple(watch.states)
    say("warm; idling")
    warm = await watch.settled()
    if not server.is_alive():
        return _soaked(traffic.tally, watch, (warm, warm), warming, full, failed)
    watch.states.clear()
    traffic = replace(traffic, stop=asyncio.Event())
    began_work = time.monotonic()

    def is_over() -> bool:
        gone = (time.monotonic() - began_work) / ((1.0 - WARM_UP) * seconds)
        return gone > 1.0 and ({who for who, _ in traffic.tally.counts} >= WHO or gone > PATIENCE)

    failed += await _calling(traffic, watch, is_over)
    say("over; idling")
    ended = await watch.idle(lambda s: not s.is_at_work and _is_within(s, warm))
    reporting.cancel()
    return _soaked(traffic.tally, watch, (warm, ended), warming, full, failed)


def _soaked(
    tally: Tally,
    watch: Watch,
    idle: tuple[State, State],
    warming: tuple[State, ...],
    full: bool,
    failed: int,
) -> Soaked:
    states, server = tuple(watch.states), watch.server
    complaints = tuple(server.complaints())
    return Soaked(tally, *idle, warming, states, full, server.is_alive(), complaints, failed)


def _is_within(state: State, earlier: State) -> bool:
    return all(now <= before for now, before in zip(state.held, earlier.held, strict=True))


def _is_full(watch: Watch) -> bool:
    """Retained pictures are bounded twice by the same number."""
    bound = sum(CACHES.values()) - CACHES["--max-retained-total-bytes"]
    return any(state.cache_bytes >= FULL * bound for state in watch.states)


async def _report(tally: Tally, watch: Watch, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(15.0)
        say(
            f"{watch.states[-1] if watch.states else 'idle'}; {len(tally.pictures)} pictures,"
            f" {tally.num_checked} numbers checked, {len(tally.wrong)} wrong,"
            f" {len(tally.untyped)} untyped"
        )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
