"""Channels that are made anew when the files changed that their credentials came from.

gRPC reads a client's certificate and its authorities once for each channel, though both are renewed
while trainers run for weeks.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

READ_AGAIN_SECONDS: Final = 1.0
RETIRED_SECONDS: Final = 600.0
"""For which the calls may go on that were made with what was renewed since."""


class Renewed(Generic[T]):
    """A `T` that was made of files, which are looked at again when it is asked for, once a second
    at most, by one thread, while the others go on with the last. Safe to share between threads of
    one process."""

    def __init__(
        self,
        make: Callable[[], T],
        read: Callable[[], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` gives what is in the files. Both raise OSError or ValueError for what cannot be
        used, which comes out of here."""
        self._make = make
        self._read = read
        self._clock = clock
        self._seen = read()
        self._current = make()
        self._looked = clock()
        self._retired: list[tuple[float, T]] = []
        self._has_ended = False
        self._looking = threading.Lock()

    def get(self) -> T:
        """The newest. Raises nothing: files that are half written, or do not fit together yet,
        leave the last one in use."""
        now = self._clock()
        if now - self._looked >= READ_AGAIN_SECONDS and self._looking.acquire(blocking=False):
            try:
                self._looked = now
                with contextlib.suppress(OSError, ValueError):
                    self._look(now)
            finally:
                self._looking.release()
        return self._current

    def outlived(self) -> list[T]:
        """Those that were renewed so long ago that nobody uses them, to be closed; they are in no
        other answer."""
        now, found = self._clock(), []
        for retired in self._retired[:]:
            if now - retired[0] > RETIRED_SECONDS:
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._retired.remove(retired)
                    found.append(retired[1])
        return found

    def end(self) -> list[T]:
        """All there are, to be closed; no other will be made."""
        with self._looking:
            self._has_ended = True
            return [self._current, *(retired for _, retired in self._retired)]

    def _look(self, now: float) -> None:
        files = self._seen if self._has_ended else self._read()
        if files != self._seen:
            made = self._make()  # if the files are changing just now, they will differ again
            old, self._current, self._seen = self._current, made, files
            self._retired.append((now, old))
