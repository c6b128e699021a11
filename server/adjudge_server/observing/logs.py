"""How lines of the log look: for people, or one JSON object each.

A line is one line, whatever was in a message; what a traceback adds is indented, so that nothing in
it can pass for a line of its own.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

FIELDS = "fields"
"""Attribute of a log record, given as `extra={FIELDS: {...}}`: what programs will look for."""

GRPC = "grpc._cython.cygrpc"
"""Logger of its servers."""


def configure(log_format: str, log_level: str) -> None:
    """Of this process. `log_format` is "text" or "json". The level is that of Adjudge's own words;
    libraries speak from warnings on, at the least."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    level = getattr(logging, log_level.upper())
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])
    logging.getLogger("adjudge_server").setLevel(level)
    logging.getLogger(GRPC).addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Whether what gRPC says is worth a line. A caller who leaves while something is sent to it is
    none: our own line of that call says that it was cancelled. gRPC adds an error with a
    traceback, where it hears of it after the sending has failed."""
    error = record.exc_info[1] if record.exc_info else None
    # By name, for it is private. Its other errors are of calls that were not begun: misuse of gRPC.
    is_batch = type(error).__name__ == "ExecuteBatchError"
    return not (is_batch and str(error).startswith('Failed "execute_batch"'))


class TextFormatter(logging.Formatter):
    """`time LEVEL logger message key=value …`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        pairs = [f" {name}={_plain(value)}" for name, value in _fields(record).items()]
        return _one_line(super().formatMessage(record) + "".join(pairs))

    def formatException(self, ei: Any) -> str:
        text = super().formatException(ei)
        return "\n".join(f"    {_one_line(line)}" for line in text.split("\n"))


class JsonFormatter(logging.Formatter):
    """An object with `time`, `level`, `logger`, `message`, the fields, and, where there is one,
    `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            **_fields(record),
            "time": time,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, FIELDS, {})


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ",".join(f"{name}:{_plain(inner)}" for name, inner in value.items()) or "-"
    return str(value)


def _one_line(text: str) -> str:
    """The same, where everything that some terminal or reader takes for the end of a line, and
    every other control character, is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
