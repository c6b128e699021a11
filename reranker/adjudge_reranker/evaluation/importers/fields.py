"""Typed fields of one record, each checked and blamed by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adjudge_reranker.evaluation.records import Picture

Row = Mapping[str, Any]


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


def pictures(row: Row, field: str, folder: Path) -> tuple[Picture, ...]:
    """A list of pictures, perhaps empty or absent. Raises FieldError."""
    values = row.get(field)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise FieldError(field, "must be a list of pictures")
    return tuple(picture(value, f"{field}[{i}]", folder) for i, value in enumerate(values))


def picture(value: Any, field: str, folder: Path) -> Picture:
    """A path, relative to `folder`; or bytes, alone or in a `{bytes, path}` as Hugging Face
    datasets store them. The file must be there. Raises FieldError."""
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str):
        raise FieldError(field, "must be a picture: a path, or the bytes of a file in parquet")
    if "://" in value or value.startswith("data:"):
        raise FieldError(field, f"is a URL, and none is ever fetched: {value[:80]}")
    path = folder / value
    if not _is_full_file(path):
        raise FieldError(field, f"names no picture, or an empty file: {path}")
    return path


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
