"""What is read from files, and read again when they change, while the server runs."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_IMODE, S_IRWXO
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS: Final = 1.0
_MAX_BYTES: Final = 1 << 20

T = TypeVar("T")


class Reloaded(Generic[T]):
    """A value made of files, which are looked at again when it is asked for, once a second at most.

    By contents, not by times: a file written twice within a tick of the clock would be missed. What
    cannot be read or makes no sense leaves the old value in use, and is logged once. Safe to share
    between threads.
    """

    def __init__(
        self,
        read: Callable[[], tuple[bytes, ...]],
        parse: Callable[[tuple[bytes, ...]], T],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Both raise ValueError where something is wrong, which comes out of here."""
        self._read = read
        self._parse = parse
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = read()
        self._value = parse(self._seen)
        self._problem = ""
        self._looked = clock()

    def get(self) -> T:
        """The newest value that made sense. Raises nothing."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= _INTERVAL_SECONDS:
                self._looked = now
                self._look()
            return self._value

    def _look(self) -> None:
        try:
            contents = self._read()
            if contents != self._seen:
                self._seen = contents  # also if it makes no sense: that is said once
                self._value = self._parse(contents)
                logger.info("%s: read again", self._value)
            self._problem = ""
        except ValueError as error:
            if str(error) != self._problem:
                logger.warning("%s; what was read before stays in use", error)
            self._problem = str(error)


def read_file(path: Path, flag: str) -> bytes:
    """At most 1 MiB. Raises ValueError, naming flag and path."""
    return _read(path, flag, is_secret=False)


def read_secret(path: Path, flag: str) -> bytes:
    """The same, and it must not be open to every user of the machine."""
    return _read(path, flag, is_secret=True)


def _read(path: Path, flag: str, *, is_secret: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = S_IMODE(os.fstat(file.fileno()).st_mode)
            contents = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{flag} {path}: {error.strerror or error}") from error
    if is_secret and mode & S_IRWXO:
        raise ValueError(f"{flag} {path}: open to every user (mode {mode:o}); chmod o= {path}")
    if len(contents) > _MAX_BYTES:
        raise ValueError(f"{flag} {path}: larger than 1 MiB")
    return contents
