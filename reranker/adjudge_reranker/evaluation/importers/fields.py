"""Typed fields of one record, each checked and blamed by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjudge_reranker.evaluation.records import Picture

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Folder:
    """Where paths of pictures start. A file may come from strangers, and what it names is sent to
    the server: so a path leads out of the folder only if that is allowed."""

    path: Path
    may_leave: bool = False


class FieldError(ValueError):
    """`field` of a record is wrong; None for the record itself. `problem` continues its name."""

    def __init__(self, field: str | None, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


def text(row: Row, field: str) -> str:
    """A string that can be sent. Raises FieldError."""
    return _checked_text(row.get(field), field)


def texts(row: Row, field: str) -> tuple[str, ...]:
    """A list of at least one string. Raises FieldError."""
    values = row.get(field)
    if not isinstance(values, list) or not values:
        raise FieldError(field, "must be a list of at least one string")
    return tuple(_checked_text(value, f"{field}[{i}]") for i, value in enumerate(values))


def two_texts(row: Row, field: str) -> tuple[str, str]:
    """A list of exactly two strings. Raises FieldError."""
    values = texts(row, field)
    if len(values) != 2:
        raise FieldError(field, f"must be a list of two strings, not of {len(values)}")
    return values[0], values[1]


def optional_text(row: Row, field: str) -> str | None:
    """A string, or None if the field is absent or null. Raises FieldError."""
    return None if row.get(field) is None else text(row, field)


def json_value(row: Row, field: str, default: Any) -> Any:
    """Anything that can be written as JSON again; `default` if the field is absent. Raises
    FieldError."""
    value = row.get(field, default)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        # Parquet has times and bytes, JSON lines have numbers that overflow to infinity.
        raise FieldError(field, f"is no JSON value: {error}") from error
    return value


def optional_key(row: Row, field: str) -> str | int | None:
    """A string or an integer, or None if the field is absent or null. Raises FieldError."""
    value = row.get(field)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if not isinstance(value, str):
        raise FieldError(field, "must be a string or an integer")
    return _checked_text(value, field)


def number(row: Row, field: str, low: float, high: float) -> float:
    """A number in [low, high]. Raises FieldError."""
    value = row.get(field)
    # A bool is an int to Python; NaN and what overflows to infinity fail the comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise FieldError(field, f"must be a number from {low:g} to {high:g}")
    return float(value)


def one_of(row: Row, field: str, *options: str) -> str:
    """One of the given strings. Raises FieldError."""
    value = row.get(field)
    if not isinstance(value, str) or value not in options:
        raise FieldError(field, f"must be one of {', '.join(options)}")
    return value


def pictures(row: Row, field: str, folder: Folder) -> tuple[Picture, ...]:
    """A list of pictures, perhaps empty or absent. Raises FieldError."""
    values = row.get(field)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise FieldError(field, "must be a list of pictures")
    return tuple(picture(value, f"{field}[{i}]", folder) for i, value in enumerate(values))


def picture(value: Any, field: str, folder: Folder) -> Picture:
    """A path, relative to `folder` and inside it; or bytes, alone or in a `{bytes, path}` as
    Hugging Face datasets store them. The file must be there. Raises FieldError."""
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str):
        raise FieldError(field, "must be a picture: a path, or the bytes of a file in parquet")
    if "://" in value or value.startswith("data:"):
        raise FieldError(field, f"is a URL, and none is ever fetched: {value[:80]}")
    path = folder.path / value
    if not folder.may_leave and not _is_inside(path, folder.path):
        raise FieldError(
            field, f"leads out of {folder.path}, which takes --images-anywhere: {value[:80]}"
        )
    if not _is_full_file(path):
        raise FieldError(field, f"names no picture, or an empty file: {path}")
    return path


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a name of a NUL, a loop of links
        return False


def _is_full_file(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:  # for one, a name longer than names can be
        return False


def _checked_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise FieldError(field, "must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FieldError(field, "has a lone surrogate, which is no character") from error
    return value
