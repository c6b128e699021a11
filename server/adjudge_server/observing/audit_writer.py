"""The thread that writes the audit.

Where the disk is full, or slower than what comes, lines are lost and counted, and requests go on: a
reward that was computed is worth more to a run than its record, and a full disk must not stop a
training run. Nobody is deceived: records are numbered, so a file shows what it lacks.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from adjudge_server.observing.audit_files import AuditFiles

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 64 << 20
SYNC_SECONDS = 1.0
"""A machine that loses power loses about this much of the audit; a process that is killed, what it
had not written yet, which is milliseconds' worth."""
COMPLAIN_SECONDS = 60.0
MAX_BLOCK = 256
"""Lines that are written at once, and lost at once."""

MakeLine = Callable[[], bytes]
"""Called on the writer's thread."""


class AuditWriter:
    """Thread-safe."""

    def __init__(
        self,
        directory: Path,
        max_file_bytes: int,
        *,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """Raises ValueError where no file can be made there."""
        self.num_written = 0
        self.num_lost = 0
        """Written by several threads, with `_changed` held."""
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[tuple[MakeLine, int]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._is_dirty = False
        self._synced = self._complained = -COMPLAIN_SECONDS
        try:
            self._files = AuditFiles(directory, max_file_bytes)
        except OSError as error:
            raise ValueError(f"--audit {directory}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def append(self, make_line: MakeLine, num_bytes: int) -> None:
        """Takes one line, that will have about so many bytes. Never waits for the disk."""
        with self._changed:
            if self._closing or self._waiting_bytes + num_bytes > self._max_waiting_bytes:
                self.num_lost += 1
                return
            self._waiting.append((make_line, num_bytes))
            self._waiting_bytes += num_bytes
            self._changed.notify()

    def close(self) -> None:
        """Writes what waits. A second time it does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not (self._is_over() and self._quietly(self._files.close)):
            block = self._take()
            if block:
                self._write(block)
            if self._is_dirty and time.monotonic() >= self._synced + SYNC_SECONDS:
                self._quietly(self._files.sync)
                self._is_dirty, self._synced = False, time.monotonic()

    def _is_over(self) -> bool:
        with self._changed:
            return self._closing and not self._waiting

    def _take(self) -> list[bytes]:
        """Waits for lines, for as long as may be until what was written is to be synced."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(SYNC_SECONDS if self._is_dirty else None)
            number = min(MAX_BLOCK, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(number)]
        lines = []
        for make_line, _ in taken:
            try:
                lines.append(make_line())
            except Exception:
                logger.exception("a record of the audit could not be made")
                self._lost(1)
        with self._changed:
            self._waiting_bytes -= sum(num_bytes for _, num_bytes in taken)
        return lines

    def _write(self, block: list[bytes]) -> None:
        while block:
            number = self._files.fitting(block)
            part, block = block[:number], block[number:]
            if self._quietly(partial(self._files.append, part)):
                self.num_written += len(part)
                self._is_dirty = True
            else:
                self._lost(len(part))

    def _lost(self, number: int) -> None:
        with self._changed:
            self.num_lost += number

    def _quietly(self, action: Callable[[], None]) -> bool:
        """Whether it went well; the log is told, though not for every line, if it did not."""
        try:
            action()
        except OSError as error:
            if time.monotonic() >= self._complained + COMPLAIN_SECONDS:
                self._complained = time.monotonic()
                logger.error(
                    "the audit cannot be written: %s; %d records are lost so far",
                    error.strerror or error,
                    self.num_lost,
                )
            return False
        return True
