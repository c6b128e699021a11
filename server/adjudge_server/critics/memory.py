"""Out of memory, whichever device says so."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raises MemoryError, from what torch raises of its kinds."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # all that the allocator for CPUs says
            raise
        raise MemoryError(str(error)) from error


def release(device: torch.device) -> None:
    """Gives back to the device what was freed."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
