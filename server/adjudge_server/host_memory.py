"""How the C library, where it is glibc, keeps memory that was freed."""

import ctypes
from contextlib import suppress

# From malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 * 1024**2
"""Bytes of one piece: the most that glibc's threads can hold in an arena."""
MOST_KEPT = 512 * 1024**2
"""Bytes at the end of each arena."""


def keep() -> None:
    """Keeps what is freed, for the next to ask for it. Otherwise every tensor of some MiB is given
    back to the system at once, and the next one is zeroed pages, each with a fault: a quarter to a
    third of a batch of the embedded critic (measured)."""
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
        library.mallopt(_TRIM_THRESHOLD, MOST_KEPT)


def give_back() -> None:
    """Returns to the system what nothing uses any more: a model is many pieces that are kept."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
