"""The libraries of the extra `adjudge[eval]`, and what is said where they are absent."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ImportError):
    """A library of the extra is not installed. The message says what needs it and how to get it."""


@contextmanager
def extra_for(purpose: str) -> Iterator[None]:
    """Surrounds imports of the extra's libraries. Raises MissingExtra if one is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("scipy", "matplotlib", "pyarrow"):
            raise
        raise MissingExtra(
            f"{purpose} needs {error.name}: pip install 'adjudge[eval]'", name=error.name
        ) from error
