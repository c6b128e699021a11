"""Files that grow by whole lines, one after the other.

A file is never appended to by a second process, nor by the same program after a restart, so a line
that a crash tore is the last of its file. Not thread-safe.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path


class AuditFiles:
    """`audit-<start>-<process>-<number>.jsonl` in a directory, readable by their owner only. Only
    the newest is open; the others may be moved away, or compressed."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """`max_bytes` of one file; a line longer than that has one to itself. Makes the directory
        and the first file. Raises OSError."""
        self._directory = directory
        self._max_bytes = max_bytes
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._stem = f"audit-{started}-{os.getpid()}"
        self._number = 0
        self._file: int | None = None
        self._size = 0
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open()

    def fitting(self, lines: Sequence[bytes]) -> int:
        """How many of these lines one file takes: the one that is open, or else the next. At least
        one."""
        sizes = list(accumulate(len(line) + 1 for line in lines))
        is_room = self._size + sizes[0] <= self._max_bytes
        room = self._max_bytes - (self._size if is_room else 0)
        return max(bisect_right(sizes, room), 1)

    def append(self, lines: Sequence[bytes]) -> None:
        """Lines that fit one file, without their ends. Raises OSError; then none of them is there,
        or the last is torn, and nothing follows it."""
        data = b"".join(line + b"\n" for line in lines)
        if self._size and self._size + len(data) > self._max_bytes:
            self.close()
        if self._file is None:
            self._open()
        assert self._file is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            self._cut(self._file)
            raise
        self._size += len(data)

    def sync(self) -> None:
        """Raises OSError."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Of the file that is open; appending opens the next. Raises OSError."""
        file, self._file, self._size = self._file, None, 0
        if file is not None:
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _open(self) -> None:
        self._number += 1
        path = self._directory / f"{self._stem}-{self._number:06d}.jsonl"
        # Never one that is there: process ids come back, and so do clocks.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        with suppress(OSError):  # not all file systems have it for directories
            directory = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _cut(self, file: int) -> None:
        """Takes away what was written of lines that did not fit."""
        try:
            os.ftruncate(file, self._size)
        except OSError:
            with suppress(OSError):
                self.close()
