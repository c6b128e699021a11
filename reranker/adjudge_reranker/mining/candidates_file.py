"""The file of candidates while it grows: it says itself which prompts are through.

Lines are only ever appended. A run that goes on reads them, cuts off a last line that is half, and
leaves out the prompts that are there. So a process may be killed at any moment, and whoever wants
a prompt asked again deletes its line. Beside it a small file says by which arguments it was made.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from adjudge_reranker.evaluation.records import BadRecord
from adjudge_reranker.json_lines import parse_json
from adjudge_reranker.mining.journal import CannotResume
from adjudge_reranker.mining.prompts import Prompt, PromptFile, canonical

_FORMAT: Final = 1
SUFFIX: Final = ".arguments"
_SYNC_SECONDS: Final = 5.0


class CandidatesFile:
    """For one process at a time; a context manager."""

    def __init__(self, file: BinaryIO, source: PromptFile) -> None:
        self._file = file
        self._source = source
        self._has = bytearray(source.num_lines)
        self._synced = time.monotonic()

    @classmethod
    def open(
        cls,
        path: Path,
        source: PromptFile,
        arguments: Mapping[str, Any],
        *,
        accept_changes: bool = False,
        restart: bool = False,
    ) -> "CandidatesFile":
        """Goes on where the file ends, or begins it.

        `arguments`, JSON values, are what decides which answers come; they must be those that the
        file was begun with, unless `accept_changes`. `restart` begins anew and throws away what is
        there. Raises CannotResume, BadRecord if two prompts have one id, and OSError.
        """
        self = cls(path.open("a+b"), source)
        try:
            _lock(self._file)
            if restart:
                self._file.truncate(0)
            recorded = path.with_name(path.name + SUFFIX)
            runs = _runs(recorded) if self._file.seek(0, os.SEEK_END) else []
            if runs is None:
                raise CannotResume(f"{path} is there, and not made by this command")
            run = json.loads(json.dumps(_identity(source) | dict(arguments)))
            _compare(runs, run, accept_changes=accept_changes)
            self._recover(path)
            if not runs or runs[-1]["arguments"] != run:
                begins = {"begins_at_byte": self._file.tell(), "arguments": run}
                _replace(recorded, {"format": _FORMAT, "runs": [*runs, begins]})
        except BlockingIOError as error:
            self.close()
            raise CannotResume(f"another process is generating into {path}") from error
        except BaseException:
            self.close()
            raise
        return self

    @property
    def num_prompts(self) -> int:
        """Those whose candidates are there."""
        return self._has.count(1)

    def has(self, prompt: Prompt) -> bool:
        return bool(self._has[prompt.number])

    def write(self, prompt: Prompt, candidates: Sequence[str]) -> None:
        """A line as `adjudge mine` reads it. It reaches the disk within seconds or by `close`."""
        row: dict[str, Any] = {"id": prompt.id, "prompt": prompt.prompt}
        if prompt.images:
            row["images"] = [self._as_given(path) for path in prompt.images]
        line = json.dumps(row | {"candidates": list(candidates)}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self._has[prompt.number] = 1
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> "CandidatesFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _as_given(self, path: Path) -> str:
        """As it stands in the input, so that the same `--images` finds it."""
        folder = self._source.folder.path
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def _recover(self, path: Path) -> None:
        numbers = _numbers(self._source)
        good = 0
        self._file.seek(0)
        for place, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # half, or without power never on the disk
            number = _number(line, numbers)
            if number is None:
                raise CannotResume(f"{path}, line {place}, is not of this input")
            self._has[number] = 1
            good += len(line)
        self._file.truncate(good)
        self._file.seek(0, os.SEEK_END)


def _lock(file: BinaryIO) -> None:
    import fcntl  # here, so that where there is none only generating does not work

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _identity(source: PromptFile) -> dict[str, Any]:
    return {"input_digest": source.digest, "images": str(source.folder.path.resolve())}


def _numbers(source: PromptFile) -> dict[bytes, int]:
    """The numbers of the prompts by their ids' digests. Raises BadRecord if two are the same."""
    numbers: dict[bytes, int] = {}
    for prompt in source.prompts():
        other = numbers.setdefault(_digest(prompt.id), prompt.number)
        if other != prompt.number:
            raise BadRecord(
                str(source.path),
                f"is that of line {other + 1} too",
                place=f"line {prompt.number + 1}",
                field="id",
            )
    return numbers


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(canonical(value), digest_size=16).digest()


def _number(line: bytes, numbers: Mapping[bytes, int]) -> int | None:
    """Of the prompt whose candidates the line holds; None if it is nobody's."""
    try:
        return numbers.get(_digest(parse_json(line.decode())["id"]))
    except (ValueError, KeyError, TypeError):
        return None


def _runs(path: Path) -> list[dict[str, Any]] | None:
    """None if there is no record of any run that this version can read."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        return None
    return list(record["runs"])


def _compare(runs: list[dict[str, Any]], run: dict[str, Any], *, accept_changes: bool) -> None:
    if not runs:
        return
    before = runs[-1]["arguments"]
    changes = [name for name in sorted({*before, *run}) if before.get(name) != run.get(name)]
    if "input_digest" in changes:
        raise CannotResume("the input is another one than it was")
    if changes and not accept_changes:
        raise CannotResume(f"other than in the run before: {', '.join(changes)}")


def _replace(path: Path, record: dict[str, Any]) -> None:
    """Whole, or not at all."""
    written = path.with_name(path.name + ".new")
    with written.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
