"""A socket in the file system as the address: who may open the file may call.

gRPC would make it as open as the umask allows, and take it away from another server that lives.
"""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SCHEME: Final = "unix:"
MODE: Final = 0o600
_MAX_BYTES: Final = 107
"""Of a socket's path, which ends with a NUL in 108 bytes: unix(7)."""


def is_unix(listen: str) -> bool:
    return listen.startswith(SCHEME)


def path_of(listen: str) -> Path:
    """Of "unix:/path" or "unix:///path". Raises ValueError for any other path, or a long one."""
    path = listen.removeprefix(SCHEME)
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path.startswith("/") or path.startswith("//") or path.endswith("/") or "\0" in path:
        raise ValueError(f"--listen {listen}: must be unix: and the absolute path of a file")
    if len(os.fsencode(path)) > _MAX_BYTES:
        raise ValueError(f"--listen {listen}: a socket's path has at most {_MAX_BYTES} bytes")
    return Path(path)


@contextmanager
def for_its_owner(path: Path) -> Iterator[None]:
    """Sockets made within are for this process's user alone. Removes one that a dead server left.
    Raises ValueError where a living one listens, or something else is there.

    Of servers that start at the same time one is let in: it holds a lock on a file beside the
    socket, ".lock" at its end, which stays there, until its process ends."""
    held = _lock(Path(f"{path}.lock"), path)
    try:
        _make_room(path)
        before = os.umask(0o777 & ~MODE)
        try:
            yield
        finally:
            os.umask(before)
    except BaseException:
        os.close(held)
        raise
    # Otherwise never closed: the socket is this process's for life.


def _lock(lock: Path, path: Path) -> int:
    try:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    except OSError as error:
        raise ValueError(f"--listen {SCHEME}{path}: {lock}: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise ValueError(f"--listen {SCHEME}{path}: another server listens there") from error
    return held


def _make_room(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ValueError(f"--listen {SCHEME}{path}: there is a file that is no socket")
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(1.0)
            caller.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:  # nobody listens
        path.unlink(missing_ok=True)
        return
    except OSError as error:  # a full backlog, or not ours to open: somebody lives there
        raise ValueError(f"--listen {SCHEME}{path}: {error.strerror or error}") from error
    raise ValueError(f"--listen {SCHEME}{path}: another server listens there")
