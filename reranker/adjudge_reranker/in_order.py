"""Several calls at once, results in the order of the jobs."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

J = TypeVar("J")
T = TypeVar("T")

IN_FLIGHT = 8
"""Jobs at a time. The server batches across calls; more would only wait in its queue."""


def in_order(
    judge: Callable[[J], T], jobs: Sequence[J], abort: Callable[[], None]
) -> Generator[tuple[J, T], None, None]:
    """Each job with what `judge` returns for it, as soon as those before it are through.

    Raises what `judge` raises. If the caller stops early, jobs that have not begun are left out and
    `abort` is called, which should end those under way.
    """
    with ThreadPoolExecutor(max(1, min(IN_FLIGHT, len(jobs)))) as pool:
        flying: deque[tuple[J, Future[T]]] = deque()
        try:
            for job in jobs:
                flying.append((job, pool.submit(judge, job)))
                if len(flying) == IN_FLIGHT:
                    first, future = flying.popleft()
                    yield first, future.result()
            for last, future in flying:
                yield last, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            abort()  # or leaving the pool would wait for calls that nobody wants any more
            raise
