"""Reading JSON lines strictly, so that a mistake is found where it was made."""

import json
import sys
from pathlib import Path
from typing import Any


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file; "-" is standard input. Raises OSError or UnicodeDecodeError."""
    data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    # Not splitlines(), which also splits at characters that texts contain.
    lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def parse_json(text: str) -> Any:
    """One JSON value. Raises ValueError, also for the NaN and Infinity that Python would read."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # nobody could read our echo of it
