"""Runs jobs against a server: several at once, results in the jobs' order, one exit code."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum, StrEnum
from typing import Any, TypeVar

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adjudge_reranker.cli.credentials import given
from adjudge_reranker.cli.critiques import show
from adjudge_reranker.cli.jobs import Job
from adjudge_reranker.cli.tables import failed_line
from adjudge_reranker.cli.verbs import Judged, Verb
from adjudge_reranker.client import RewardClient
from adjudge_reranker.errors import (
    DeadlineExceeded,
    ErrorReason,
    RewardError,
    ServerUnavailable,
)
from adjudge_reranker.in_order import in_order
from adjudge_reranker.model_info import ModelInfo
from adjudge_reranker.types import CritiqueEvent

_CONNECT_SECONDS = 5.0


class ExitCode(IntEnum):
    JUDGED = 0
    SOME_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    DEADLINE = 4


_SEVERITY = (
    ExitCode.JUDGED,
    ExitCode.SOME_FAILED,
    ExitCode.DEADLINE,
    ExitCode.UNREACHABLE,
    ExitCode.USAGE,
)


class Format(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"


R = TypeVar("R", bound=Judged)


class Output:
    """Writes results to standard output and remembers how they went."""

    def __init__(self, chosen: Format | None) -> None:
        self.console = Console(highlight=False)
        self.format = chosen or (Format.TABLE if self.console.is_terminal else Format.JSONL)
        self.exit_code = ExitCode.JUDGED

    def write(self, verb: Verb[R], job: Job, result: R | RewardError) -> None:
        if isinstance(result, RewardError):
            self.note(exit_code_of(result))
            if self.format is Format.JSONL:
                self.write_record(verb.failed_record(job, result))
            else:
                self.console.print(failed_line(job, result))
            return
        if result.failures:
            self.note(ExitCode.SOME_FAILED)
        if self.format is Format.JSONL:
            self.write_record(verb.record(job, result))
        else:
            self.console.print(verb.table(job, result))

    def write_record(self, record: dict[str, Any]) -> None:
        print(json.dumps(record, allow_nan=False), flush=True)

    def note(self, code: ExitCode) -> None:
        """Of several failures the one that says most about the whole run counts."""
        self.exit_code = max(self.exit_code, code, key=_SEVERITY.index)


def complain(message: str) -> None:
    print(f"adjudge: {message}", file=sys.stderr)


def connect(server: str, timeout: float, model: str | None) -> tuple[RewardClient, ModelInfo]:
    """A client of a server that answers, and what it serves.

    Exits with UNREACHABLE, or USAGE for an unknown model or a refused token, after a complaint on
    standard error. Raises typer.BadParameter for a token or TLS files that cannot be used.
    """
    try:
        client = RewardClient(server, timeout=timeout, **given().arguments())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        return client, client.model(model, timeout=min(timeout, _CONNECT_SECONDS))
    except RewardError as error:
        complain(f"{server}: {error}")
        is_usage = (
            error.reason == ErrorReason.UNKNOWN_MODEL
            or error.code is grpc.StatusCode.UNAUTHENTICATED
        )
        raise typer.Exit(ExitCode.USAGE if is_usage else ExitCode.UNREACHABLE) from error


def show_critique(job: Job, events: Iterable[CritiqueEvent], output: Output) -> None:
    """Shows one critique on the terminal while it is written."""
    try:
        if show(job, events, output.console):
            output.note(ExitCode.SOME_FAILED)
    except RewardError as error:
        output.console.print(failed_line(job, error))
        output.note(exit_code_of(error))


def judge_all(client: RewardClient, verb: Verb[R], jobs: Sequence[Job], output: Output) -> None:
    """Judges the jobs and writes each result as soon as those before it are written.

    A server that stays away for a job's whole timeout ends the run: every other job would wait as
    long. Its remaining jobs are left out, and standard error says how many.
    """

    def judge(job: Job) -> R | RewardError:
        try:
            return verb.judge(client, job)
        except RewardError as error:
            return error

    num_written = 0
    with progress_bar(len(jobs)) as bar:
        for job, result in in_order(judge, jobs, client.close):
            with bar.paused() if output.console.is_terminal else contextlib.nullcontext():
                output.write(verb, job, result)
            bar.advance()
            num_written += 1
            if isinstance(result, ServerUnavailable):
                num_left = len(jobs) - num_written
                complain(f"the server stayed unavailable; {num_left} prompts were not judged")
                break


class NoBar:
    """Where there is nothing to wait for, or nobody to see it."""

    def advance(self) -> None:
        pass

    def paused(self) -> AbstractContextManager[None]:
        """Takes the bar away while something is written to the terminal that it is on."""
        return contextlib.nullcontext()


class _Bar(NoBar):
    def __init__(self, progress: Progress, num_jobs: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=num_jobs)

    def advance(self) -> None:
        self._progress.advance(self._task)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self._progress.stop()
        yield
        self._progress.start()


@contextlib.contextmanager
def progress_bar(num_jobs: int, doing: str = "judging") -> Iterator[NoBar]:
    """On standard error, if that is a terminal and there is something to wait for."""
    console = Console(stderr=True)
    if num_jobs < 2 or not console.is_terminal:
        yield NoBar()
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Redirecting would send the results to standard error, where the bar is.
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as progress:
        yield _Bar(progress, num_jobs)


def exit_code_of(error: RewardError) -> ExitCode:
    """Of a call that failed as a whole."""
    if isinstance(error, ServerUnavailable):
        return ExitCode.UNREACHABLE
    if isinstance(error, DeadlineExceeded):
        return ExitCode.DEADLINE
    return ExitCode.SOME_FAILED
