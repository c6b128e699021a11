"""Memory of the process that nothing uses any more."""

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Returns it to the system, where the C library is glibc: that keeps, for each thread that ever
    allocated, what was freed in pieces of less than 32 MiB, and a model is many of those."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
