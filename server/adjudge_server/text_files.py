"""Text and JSON from files, and complaints about them in words of people."""

import json
from pathlib import Path
from typing import Any


def decode(contents: bytes) -> str:
    """Raises ValueError, naming line and byte, for what is not UTF-8."""
    try:
        return contents.decode("utf-8")
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        byte = contents[error.start]
        raise ValueError(f"not UTF-8: line {line} has the byte 0x{byte:02x}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A file's object; empty where there is no such file. Raises ValueError for other contents."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(decode(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name}: not a JSON object")
    return value
