"""The command `eval`: reads labelled items, judges them, and writes what came of it."""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import numpy as np
import typer

from adjudge_reranker.cli.evaluation_records import judged_record, report_record
from adjudge_reranker.cli.evaluation_tables import report_tables
from adjudge_reranker.cli.judging import (
    ExitCode,
    Format,
    Output,
    complain,
    connect,
    exit_code_of,
    progress_bar,
)
from adjudge_reranker.client import RewardClient
from adjudge_reranker.errors import RewardError
from adjudge_reranker.evaluation.arrays import pair_arrays
from adjudge_reranker.evaluation.importers import Layout, load_items
from adjudge_reranker.evaluation.judge import (
    NOT_JUDGED,
    Judged,
    Question,
    Unanswered,
    UnknownTemplate,
    choose_templates,
    judge_items,
)
from adjudge_reranker.evaluation.records import BadRecord, Item
from adjudge_reranker.evaluation.report import Report, build_report
from adjudge_reranker.model_info import ModelInfo, Template

_PIPED_WIDTH: Final = 200
"""Characters. Tables are as narrow as their contents; a pipe has no reason to fold them."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Where the labelled items come from: the options of the command line, as given."""

    file: str
    layout: Layout
    images: Path | None
    images_anywhere: bool


@dataclass(frozen=True, slots=True)
class Critic:
    """Who is asked, and how."""

    server: str
    templates: Sequence[str]
    rubric: str | None
    model: str | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Files:
    """What is written beside the table; None for what is not."""

    json: Path | None
    records: Path | None
    plot: Path | None


def run(labels: Labels, critic: Critic, files: Files) -> ExitCode:
    """Raises typer.BadParameter for bad input, before anything is judged, MissingExtra, and
    typer.Exit if the server is not there."""
    _check(files, labels.file)
    items = _load(labels)
    client, model = connect(critic.server, critic.timeout, critic.model)
    with client:
        question, reward_range = _question(critic, model)
        output = Output(Format.TABLE)
        judged = _judge(client, items, question, files.records, output)
    report = build_report(judged, labels.layout, reward_range)
    if not output.console.is_terminal:
        output.console.width = _PIPED_WIDTH
    output.console.print(report_tables(report, labels.file))
    _write(report, judged, labels, files)
    return output.exit_code


def _check(files: Files, input: str) -> None:
    if files.plot is not None:
        import adjudge_reranker.evaluation.plot  # noqa: F401  # whether its library is there
    options = {"--json": files.json, "--records": files.records, "--plot": files.plot}
    outputs = {option: path for option, path in options.items() if path is not None}
    for option, path in outputs.items():
        _check_is_writable(option, path)
        if _is_input(path, input):
            raise typer.BadParameter(f"{option} would overwrite the labels: {path}")
    for (option, path), (other, other_path) in itertools.combinations(outputs.items(), 2):
        if _are_same(path, other_path):
            raise typer.BadParameter(f"{option} and {other} are one file: {path}")


def _check_is_writable(option: str, path: Path) -> None:
    """Writes nothing, and leaves nothing behind that was not there."""
    if str(path) == "-":
        raise typer.BadParameter(f"{option} takes a file: standard output is for the table")
    problem = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            # A pipe, for one, and opening that may wait for whoever reads it.
            problem = None if os.access(path, os.W_OK) else "Permission denied"
        else:
            target = path.resolve()  # not the link, if it is one that leads to nothing yet
            is_new = not target.exists()
            target.open("ab").close()
            if is_new:
                target.unlink()
    except (OSError, ValueError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if problem is not None:
        raise typer.BadParameter(f"{option} cannot be written: {path}: {problem}")


def _is_input(path: Path, input: str) -> bool:
    if input != "-":
        return _are_same(path, Path(input))
    try:
        return os.path.samestat(os.fstat(sys.stdin.fileno()), path.stat())
    except (OSError, ValueError):  # one of them is no file
        return False


def _are_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)  # hard links too
    except OSError:  # one of them is not there yet
        return os.path.realpath(path) == os.path.realpath(other)


def _load(labels: Labels) -> tuple[Item, ...]:
    try:
        return load_items(
            labels.file, labels.layout, labels.images, images_anywhere=labels.images_anywhere
        )
    except BadRecord as error:
        raise typer.BadParameter(str(error)) from error


def _question(critic: Critic, model: ModelInfo) -> tuple[Question, tuple[float, float] | None]:
    """What every call carries, and the range of the rewards."""
    try:
        pairwise, pointwise = choose_templates(critic.templates, model)
    except UnknownTemplate as error:
        raise typer.BadParameter(str(error)) from error
    question = Question(
        pairwise_template=pairwise.name if pairwise else None,
        pointwise_template=pointwise.name if pointwise else None,
        rubric=critic.rubric,
        model=critic.model,
    )
    return question, _range(pointwise)


def _range(template: Template | None) -> tuple[float, float] | None:
    if template is None or template.min_reward is None or template.max_reward is None:
        return None
    low, high = template.min_reward, template.max_reward
    return (low, high) if low < high else None


def _judge(
    client: RewardClient,
    items: Sequence[Item],
    question: Question,
    records: Path | None,
    output: Output,
) -> list[Judged]:
    judged = []
    with _opened(records) as file, progress_bar(len(items)) as bar:
        for one in judge_items(client, items, question):
            judged.append(one)
            if file is not None:
                print(json.dumps(judged_record(one), allow_nan=False), file=file, flush=True)
            if isinstance(one.reading, Unanswered):
                output.note(_exit_code(one.reading))
            bar.advance()
    num_left = sum(
        isinstance(one.reading, Unanswered) and one.reading.reason == NOT_JUDGED for one in judged
    )
    if num_left:
        complain(f"the server stayed unavailable; {num_left} items were not judged")
    return judged


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with path.open("w", encoding="utf-8") as file:
        yield file


def _exit_code(unanswered: Unanswered) -> ExitCode:
    if unanswered.is_call and isinstance(unanswered.error, RewardError):
        return exit_code_of(unanswered.error)
    return ExitCode.SOME_FAILED


def _write(report: Report, judged: Sequence[Judged], labels: Labels, files: Files) -> None:
    if files.json is not None:
        record = report_record(report, labels.file, labels.layout)
        files.json.write_text(json.dumps(record, allow_nan=False, indent=2) + "\n", "utf-8")
    if files.plot is not None:
        from adjudge_reranker.evaluation.plot import draw

        bias = pair_arrays(judged).position_bias
        draw(files.plot, report, bias[~np.isnan(bias)])
    epochs = {(one.model, one.weights_epoch) for one in report.critics}
    if len(epochs) > 1:
        complain("the critic changed meanwhile: readings of several weights epochs are mixed")
