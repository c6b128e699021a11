"""The command `mine`: from candidates to preference pairs, in a file that outlives its runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.table import Table

from adjudge_reranker.cli.files import INTERRUPTED, Files
from adjudge_reranker.cli.judging import (
    ExitCode,
    Format,
    Output,
    complain,
    connect,
    exit_code_of,
    progress_bar,
)
from adjudge_reranker.cli.tables import printable
from adjudge_reranker.client import RewardClient
from adjudge_reranker.errors import RewardError, ServerUnavailable
from adjudge_reranker.evaluation.records import BadRecord
from adjudge_reranker.mining import (
    CannotResume,
    CriticChanged,
    Failed,
    Journal,
    Options,
    Outcome,
    Plan,
    PromptFile,
    Tally,
    mine,
)


@dataclass(frozen=True, slots=True)
class Critic:
    """Who is asked, and how."""

    server: str
    templates: Sequence[str]
    rubric: str | None
    model: str | None
    timeout: float


def run(files: Files, critic: Critic, options: Options) -> int:
    """The exit code. Raises typer.BadParameter for bad input, before anything is judged, and
    typer.Exit if the server is not there."""
    try:
        if files.output.exists() and files.output.samefile(files.input):
            raise typer.BadParameter(f"--out would overwrite the input: {files.output}")
        source = PromptFile.check(files.input, files.images, images_anywhere=files.images_anywhere)
    except (BadRecord, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    client, model = connect(critic.server, critic.timeout, critic.model)
    with client:
        try:
            plan = Plan.make(
                model,
                options,
                templates=tuple(critic.templates),
                rubric=critic.rubric,
                model_name=critic.model,
            )
            journal = Journal.open(
                files.output,
                source,
                plan,
                accept_changes=files.accept_changes,
                restart=files.restart,
            )
        except CannotResume as error:
            hint = "--restart begins anew and throws away what is there"
            if "other than" in str(error):
                hint = f"--accept-changes goes on nevertheless, {hint}"
            raise typer.BadParameter(f"{error}; {hint}") from error
        except (ValueError, OSError) as error:
            raise typer.BadParameter(str(error)) from error
        with journal:
            output = Output(Format.TABLE)
            code = _mine(client, source, plan, journal, output, any_critic=files.accept_changes)
            output.console.print(_summary(journal.tally, source, files.output))
    return code


def _mine(
    client: RewardClient,
    source: PromptFile,
    plan: Plan,
    journal: Journal,
    output: Output,
    *,
    any_critic: bool,
) -> int:
    num_left = source.num_prompts - journal.tally.num_settled
    if num_left < source.num_prompts:
        complain(
            f"{source.num_prompts - num_left} of {source.num_prompts} prompts were done before"
        )
    try:
        with progress_bar(num_left) as bar:
            for outcome in mine(client, source, plan, journal, any_critic=any_critic):
                bar.advance()
                output.note(_code(outcome))
                if isinstance(outcome, Failed) and isinstance(outcome.error, ServerUnavailable):
                    complain(f"the server stayed unavailable: {outcome.error}")
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here")
        return INTERRUPTED
    except (CriticChanged, BadRecord, OSError) as error:
        complain(f"{error}; what is written stays good")
        return ExitCode.SOME_FAILED
    if journal.tally.num_failed_candidates:
        output.note(ExitCode.SOME_FAILED)
    return output.exit_code


def _code(outcome: Outcome) -> ExitCode:
    if not isinstance(outcome, Failed):
        return ExitCode.JUDGED
    if isinstance(outcome.error, RewardError):
        return exit_code_of(outcome.error)
    return ExitCode.SOME_FAILED


def _summary(tally: Tally, source: PromptFile, output: Path) -> Table:
    table = Table("what", "reason", "prompts", title=printable(str(output)), title_justify="left")
    table.columns[2].justify = "right"
    table.add_row(f"gave {tally.num_pairs} pairs", "", str(tally.num_paired))
    for reason, count in sorted(tally.skipped.items()):
        table.add_row("no pair", reason, str(count))
    for reason, count in sorted(Counter(tally.failed.values()).items()):
        table.add_row("failed", printable(reason), str(count))
    left = source.num_prompts - tally.num_settled - len(tally.failed)
    if left:
        table.add_row("not judged yet", "", str(left))
    if tally.num_failed_candidates:
        table.caption = f"{tally.num_failed_candidates} candidates failed and are in no pair"
    return table
