"""Files of records: JSON lines, JSON lists and parquet. What a record means is its layout's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from adjudge_reranker.evaluation.extras import extra_for
from adjudge_reranker.evaluation.records import BadRecord
from adjudge_reranker.json_lines import parse_json, read_lines

_BATCH: Final = 64


class Columns(NamedTuple):
    """What is read of a table."""

    known: frozenset[str]
    are_all: bool
    """Whether a table may have no others. Else they are not read, whatever is in them."""


class Placed(NamedTuple):
    """A record as it stands in its file."""

    place: str
    """Such as "line 3", counted from 1."""
    number: int
    """Counted from 0, blank lines included."""
    row: dict[str, Any]


def read_rows(path: str, columns: Columns) -> Iterator[Placed]:
    """The records of a file: `.json` holds a list, `.parquet` a table, and all else JSON lines;
    "-" is JSON lines from standard input.

    Raises BadRecord, and MissingExtra for parquet without its library.
    """
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path, columns)
        elif suffix == ".json":
            yield from _json_rows(path)
        else:
            yield from _json_line_rows(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecord(path, f"cannot be read: {error}") from error


def _json_line_rows(path: str) -> Iterator[Placed]:
    for number, line in enumerate(read_lines(path)):
        if not line.strip():
            continue
        place = f"line {number + 1}"
        try:
            value = parse_json(line)
        except ValueError as error:
            raise BadRecord(path, f"not JSON: {error}", place=place) from error
        yield Placed(place, number, _object(value, path, place))


def _json_rows(path: str) -> Iterator[Placed]:
    try:
        values = parse_json(Path(path).read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise BadRecord(path, f"not JSON ({error}); JSON lines are named .jsonl") from error
    if not isinstance(values, list):
        raise BadRecord(path, "must hold a list of records")
    for number, value in enumerate(values):
        place = f"record {number + 1}"
        yield Placed(place, number, _object(value, path, place))


def _parquet_rows(path: str, columns: Columns) -> Iterator[Placed]:
    with extra_for("reading parquet"):
        import pyarrow
        import pyarrow.parquet
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(_BATCH, columns=sorted(columns.known)):
                for index in range(batch.num_rows):
                    place = f"row {number + 1}"
                    yield Placed(place, number, _parquet_row(path, place, batch, index))
                    number += 1
    except pyarrow.ArrowException as error:
        raise BadRecord(path, f"not a parquet file that can be read: {error}") from error


def _check_columns(path: str, names: list[str], columns: Columns) -> None:
    known = sorted(columns.known)
    for name in names:
        if name in columns.known and names.count(name) > 1:
            raise BadRecord(path, "is the name of two columns", field=name)
        if name not in columns.known and columns.are_all:
            raise BadRecord(path, f"is not known here; known are {', '.join(known)}", field=name)


def _parquet_row(path: str, place: str, batch: Any, index: int) -> dict[str, Any]:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value = column[index].as_py()
        except (ValueError, OverflowError) as error:
            # Python has no value for it: nanoseconds, a year past 9999, text that is not UTF-8.
            raise BadRecord(path, f"cannot be read: {error}", place=place, field=name) from error
        # A table has every column in every row; null is how it leaves one out.
        if value is not None:
            row[name] = value
    return row


def _object(value: Any, path: str, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRecord(path, "not a JSON object", place=place)
    return value
