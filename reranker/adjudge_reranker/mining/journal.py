"""The output of mining, and the journal beside it that says how far it is.

Pairs are appended to the output first; then one line in the journal says what became of the prompt
and how long the output is by now. Whatever is after the last whole line of the journal was never
finished, and is cut off when mining goes on. So a process may be killed at any moment: no pair is
written twice, none is lost, and no line is half.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from adjudge_reranker.errors import RewardError
from adjudge_reranker.mining.judging import Failed, Mined, Outcome
from adjudge_reranker.mining.plan import Plan
from adjudge_reranker.mining.prompts import PromptFile

_FORMAT: Final = 1
SUFFIX: Final = ".journal"


class CannotResume(ValueError):
    """There is output already that this run may not continue. The message says why."""


@dataclass(slots=True)
class Tally:
    """What became of the prompts so far, earlier runs included."""

    num_pairs: int = 0
    num_paired: int = 0
    """Prompts that gave pairs."""
    num_failed_candidates: int = 0
    """In prompts that did not fail as a whole."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Prompts without a pair, by reason."""
    failed: dict[int, str] = field(default_factory=dict)
    """Reasons, by the numbers of the lines."""

    @property
    def num_settled(self) -> int:
        """Prompts that are through, whether or not they gave a pair."""
        return self.num_paired + self.skipped.total()

    def add(self, entry: dict[str, Any]) -> None:
        """Of several entries of one line the last one counts."""
        number = entry["line"] - 1
        self.failed.pop(number, None)
        if entry["outcome"] == "failed":
            self.failed[number] = entry["reason"]
            return
        self.num_failed_candidates += len(entry["failed_candidates"])
        if entry["outcome"] == "paired":
            self.num_paired += 1
            self.num_pairs += entry["num_pairs"]
        else:
            self.skipped[entry["reason"]] += 1


class Journal:
    """Both files, for one process at a time; a context manager."""

    def __init__(self, output: BinaryIO, journal: BinaryIO, num_lines: int) -> None:
        self._output = output
        self._journal = journal
        self._settled = bytearray(num_lines)
        self.tally = Tally()
        self.previous: dict[str, Any] | None = None
        """The run before this one; None if this is the first."""

    @classmethod
    def open(
        cls,
        path: Path,
        source: PromptFile,
        plan: Plan,
        *,
        accept_changes: bool = False,
        restart: bool = False,
    ) -> "Journal":
        """Goes on where the files end, or begins them.

        `accept_changes` goes on with other options or another critic, `restart` begins anew and
        throws away what is there. Raises CannotResume, and OSError.
        """
        journal_path = path.with_name(path.name + SUFFIX)
        if path.exists() and not restart and not journal_path.exists() and path.stat().st_size:
            raise CannotResume(f"{path} is there, and no journal of mining beside it")
        journal = journal_path.open("a+b")
        output = path.open("a+b")
        self = cls(output, journal, source.num_lines)
        try:
            _lock(journal)
            if restart:
                # The output first: a journal without its output would claim what is not there.
                output.truncate(0)
                journal.truncate(0)
            self._recover()
            self._begin_run(source, plan, accept_changes=accept_changes)
        except BlockingIOError as error:
            self.close()
            raise CannotResume(f"another process is mining into {path}") from error
        except BaseException:
            self.close()
            raise
        return self

    def is_settled(self, number: int) -> bool:
        """Whether the prompt of that line, from 0, is through."""
        return bool(self._settled[number])

    def write(self, outcome: Outcome, rows: Iterable[dict[str, Any]]) -> None:
        """`rows` are the pairs of the outcome."""
        lines = b"".join(_line(row) for row in rows)
        if lines:
            self._output.write(lines)
            self._output.flush()
        entry = _entry(outcome) | {"output_bytes": self._output.tell()}
        self._journal.write(_line(entry))
        self._journal.flush()
        self._note(entry)

    def sync(self) -> None:
        """Onto the disk, so that it outlasts the machine's power too."""
        os.fsync(self._output.fileno())
        os.fsync(self._journal.fileno())

    def close(self) -> None:
        self._output.close()
        self._journal.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _recover(self) -> None:
        """Reads the journal up to its last whole line that the output bears out; cuts the rest."""
        size = self._output.seek(0, os.SEEK_END)
        good = output_bytes = 0
        self._journal.seek(0)
        for line in self._journal:
            # Without power the journal may have reached the disk before the output did.
            if not line.endswith(b"\n") or (entry := _parsed(line)) is None:
                break
            if entry.get("output_bytes", 0) > size:
                break
            good += len(line)
            if "run" in entry:
                self.previous = entry["run"]
                if self.previous.get("format") != _FORMAT:
                    raise CannotResume("the journal is of another version")
                continue
            output_bytes = entry["output_bytes"]
            if entry["line"] > len(self._settled):
                continue  # of another input, which is refused when runs are compared
            self._note(entry)
        self._journal.truncate(good)
        self._journal.seek(0, os.SEEK_END)
        self._output.truncate(output_bytes)
        self._output.seek(0, os.SEEK_END)

    def _begin_run(self, source: PromptFile, plan: Plan, *, accept_changes: bool) -> None:
        run = {"format": _FORMAT, "arguments": plan.arguments(source), "critic": plan.critic}
        run = json.loads(json.dumps(run))
        if self.previous == run:
            return
        if self.previous is not None:
            changes = _changes(self.previous, run)
            if "input_digest" in changes:
                raise CannotResume("the input is another one than it was")
            if not accept_changes:
                raise CannotResume(f"other than in the run before: {', '.join(changes)}")
        self._journal.write(_line({"run": run}))
        self._journal.flush()

    def _note(self, entry: dict[str, Any]) -> None:
        self.tally.add(entry)
        self._settled[entry["line"] - 1] = entry["outcome"] != "failed"


def _lock(file: BinaryIO) -> None:
    import fcntl  # here, so that where there is none only mining does not work

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _entry(outcome: Outcome) -> dict[str, Any]:
    entry: dict[str, Any] = {"line": outcome.prompt.number + 1, "id": outcome.prompt.id}
    if isinstance(outcome, Failed):
        return entry | {
            "outcome": "failed",
            "reason": outcome.reason,
            "error": _error(outcome.error),
        }
    failed = [{"index": one.index, "error": _error(one.error)} for one in outcome.failed]
    if isinstance(outcome, Mined):
        how: dict[str, Any] = {"outcome": "paired", "num_pairs": len(outcome.pairs)}
    else:
        how = {"outcome": "skipped", "reason": outcome.reason}
    return entry | how | {"failed_candidates": failed}


def _error(error: Exception) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, RewardError):
        record |= {"code": error.code.name, "reason": error.reason, "metadata": error.metadata}
    return record


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    return [
        name
        for group in ("arguments", "critic")
        for name in sorted({*before[group], *now[group]})
        if before[group].get(name) != now[group].get(name)
    ]


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
