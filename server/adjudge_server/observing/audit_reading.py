"""Reads an audit, and says what it lacks. `python -m adjudge_server.observing.audit_reading FILE…`

Needs nothing but the standard library.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "run": str,
    "number": int,
    "time": str,
    "request_id": str,
    "method": str,
    "fingerprint": str,
    "epoch": int,
    "template": str,
    "template_hash": str,
    "prompt": (str, type(None)),
    "items": list,
}
_NUMBERS = {"reward", "margin"}

Record = dict[str, Any]


def read_audit(path: Path) -> Iterator[Record]:
    """The records of one file. A last line without its end, which a crash may leave, is no record.

    Raises ValueError, naming file and line, for anything else that is none, and OSError.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _record(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error


@dataclass(slots=True)
class Found:
    """What some files hold together."""

    num_records: int = 0
    num_items: int = 0
    num_failures: int = 0
    numbers: dict[str, list[int]] = field(default_factory=dict)
    """By run, as they come."""

    def lacking(self, run: str) -> int:
        """Records between the first and the last of a run that are not there. What a run lost at
        its very end cannot be seen."""
        numbers = set(self.numbers[run])
        return max(numbers) - min(numbers) + 1 - len(numbers)

    def repeated(self, run: str) -> int:
        return len(self.numbers[run]) - len(set(self.numbers[run]))


def check(paths: Iterable[Path]) -> Found:
    """Reads all of it. Raises as `read_audit` does."""
    found = Found()
    for path in paths:
        for record in read_audit(path):
            found.num_records += 1
            found.num_items += len(record["items"])
            found.num_failures += sum("failure" in item for item in record["items"])
            found.numbers.setdefault(record["run"], []).append(record["number"])
    return found


def _record(line: bytes) -> Record:
    record = json.loads(line, parse_constant=_refused)
    if not isinstance(record, dict) or record.get("v") != VERSION:
        raise ValueError(f"no record of version {VERSION}")
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"no record: {name} is {record.get(name)!r}")
    for item in record["items"]:
        if not isinstance(item, dict) or len((_NUMBERS | {"failure"}) & set(item)) != 1:
            raise ValueError("an item is neither a reward nor a margin nor a failure")
    return record


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def main(arguments: list[str]) -> int:
    """Prints what there is; 1 where something is missing, 2 where something is no audit."""
    if not arguments:
        print("usage: audit_reading FILE…", file=sys.stderr)
        return 2
    try:
        found = check(map(Path, arguments))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{found.num_records} records, {found.num_items} items, {found.num_failures} of them failed"
    )
    for run in found.numbers:
        print(f"run {run}: {found.lacking(run)} records missing, {found.repeated(run)} twice")
    return int(any(found.lacking(run) or found.repeated(run) for run in found.numbers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
