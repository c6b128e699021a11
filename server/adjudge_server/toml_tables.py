"""Tables of a TOML file, read key by key; each complaint names its key."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from adjudge_server.misconfigured import Misconfigured
from adjudge_server.text_files import decode

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
_NO_DEFAULT = object()


class Table:
    """A table of the file, from which keys are taken one by one."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._left = dict(table)

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str, read: Callable[[Any], T], default: object = _NO_DEFAULT) -> T:
        """What `read` makes of the value, or of the default, without which the key is needed."""
        value = self._left.pop(key, default)
        if value is _NO_DEFAULT:
            there = "".join(f"; there is {k!r}" for k in get_close_matches(key, self._left, n=1))
            raise ValueError(f"the key {key!r} is missing{there}")
        try:
            return read(value)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error

    def check_is_empty(self, where: str = "") -> None:
        if self._left:
            raise ValueError(f"unknown keys {sorted(self._left)} {where}".rstrip())


def read_file(flag: str, path: Path, parse: Callable[[str], T]) -> T:
    """What `parse` makes of the text of a file that a flag names.

    Raises ValueError, naming both: Misconfigured for what the file says, and any other for one that
    cannot be read, which may be there later.
    """
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{flag} {path}: {error.strerror or error}") from error
    try:
        return parse(decode(contents))
    except ValueError as error:
        raise Misconfigured(f"{flag} {path}: {error}") from error
    except RecursionError as error:
        raise Misconfigured(f"{flag} {path}: brackets within brackets, too deep") from error


def tables(value: object) -> list[Mapping[str, Any]]:
    """Of `[[several]]` of one name."""
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError("is written as tables in double brackets")
    return value


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def line(value: object) -> str:
    """A name, an address, a path: printable, and not empty."""
    found = text(value)
    if not found.strip() or not found.isprintable():
        raise ValueError(f"{found!r} is empty or not printable")
    return found


def texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):  # a string is no list of letters
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(map(text, value))


def choice(choices: Sequence[str]) -> Callable[[object], str]:
    """Reads one of several texts."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        return str(value)

    return read


def member(kind: type[E]) -> Callable[[object], E]:
    """Reads a member of an Enum by its value."""

    def read(value: object) -> E:
        for each in kind:
            if each.value == value:
                return each
        raise ValueError(f"{value!r} is none of {', '.join(each.value for each in kind)}")

    return read


def integer(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"{_shown(value)} is not an integer from {lowest} to {highest}")
        return value

    return read


def number(lowest: float, highest: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        found = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        if found is None or not lowest <= found <= highest:  # nan is not, either
            raise ValueError(f"{_shown(value)} is not a number from {lowest:g} to {highest:g}")
        return float(found)

    return read


def _shown(value: object) -> str:
    # Python refuses to write out very long integers.
    return "that" if isinstance(value, int) and abs(value) > 10**100 else repr(value)
