"""The command `generate`: candidates from an endpoint, in a file that outlives its runs."""

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import typer
from rich.table import Table

from adjudge_reranker.cli.files import INTERRUPTED, Files
from adjudge_reranker.cli.judging import ExitCode, Format, NoBar, Output, complain, progress_bar
from adjudge_reranker.cli.tables import printable
from adjudge_reranker.evaluation.records import BadRecord
from adjudge_reranker.generation import OpenAIPolicy
from adjudge_reranker.mining import (
    CandidatesFile,
    CannotResume,
    NotGenerated,
    PromptFile,
    Reason,
    Wanted,
    generate_candidates,
)
from adjudge_reranker.mining.generating import Outcome

_MAX_SHOWN: Final = 300
"""Characters of an endpoint's complaint."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Who is asked, and how."""

    url: str
    model: str
    choices_per_request: int
    max_retries: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the policy answers; None leaves it to the endpoint."""

    temperature: float | None
    max_tokens: int | None
    seed: int | None

    def options(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def run(files: Files, endpoint: Endpoint, sampling: Sampling, wanted: Wanted) -> int:
    """The exit code. Raises typer.BadParameter for bad input, before anything is asked."""
    try:
        import openai  # noqa: F401, now, because the first request would be too late
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        complain("generate needs openai: pip install 'adjudge[openai]'")
        return ExitCode.USAGE
    address = _without_password(endpoint.url)
    policy = OpenAIPolicy(
        endpoint.model,
        base_url=endpoint.url,
        max_in_flight=1,  # of one prompt: several prompts are asked about at a time instead
        choices_per_request=endpoint.choices_per_request,
        timeout=endpoint.timeout,
        max_retries=endpoint.max_retries,
        **sampling.options(),
    )
    arguments = {
        "policy_url": address,
        "policy_model": endpoint.model,
        "num_candidates": wanted.num_candidates,
        "allow_truncated": wanted.allow_truncated,
        **asdict(sampling),
    }
    source, file = _open(files, arguments)
    with file:
        return _Run(policy, source, wanted, file).all(files.output)


def _open(files: Files, arguments: dict[str, Any]) -> tuple[PromptFile, CandidatesFile]:
    try:
        if files.output.exists() and files.output.samefile(files.input):
            raise typer.BadParameter(f"--out would overwrite the input: {files.output}")
        source = PromptFile.check(
            files.input,
            files.images,
            images_anywhere=files.images_anywhere,
            with_candidates=False,
        )
        return source, CandidatesFile.open(
            files.output,
            source,
            arguments,
            accept_changes=files.accept_changes,
            restart=files.restart,
        )
    except CannotResume as error:
        hint = "--restart begins anew and throws away what is there"
        if "other than" in str(error):
            hint = f"--accept-changes goes on nevertheless, {hint}"
        raise typer.BadParameter(f"{error}; {hint}") from error
    except (BadRecord, OSError) as error:
        raise typer.BadParameter(str(error)) from error


def _without_password(url: str) -> str:
    """What may be written down. Raises typer.BadParameter for what is no address."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018, raises for a port that is none
    except ValueError as error:
        raise typer.BadParameter(f"--policy-url: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter("--policy-url must begin with http:// or https:// and a host")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


class _Run:
    """Counts what comes, and tells it."""

    def __init__(
        self, policy: OpenAIPolicy, source: PromptFile, wanted: Wanted, file: CandidatesFile
    ) -> None:
        self._policy = policy
        self._source = source
        self._wanted = wanted
        self._file = file
        self._output = Output(Format.TABLE)
        self._failed: Counter[Reason] = Counter()
        self._left_out: Counter[Reason] = Counter()

    def all(self, path: Path) -> int:
        """The exit code."""
        num_before = self._file.num_prompts
        if num_before:
            complain(f"{num_before} of {self._source.num_prompts} prompts were done before")
        code = self._ask()
        self._output.console.print(self._summary(path))
        return code

    def _ask(self) -> int:
        num_left = self._source.num_prompts - self._file.num_prompts
        try:
            with progress_bar(num_left, "generating") as bar:
                asyncio.run(self._generate(bar))
        except KeyboardInterrupt:
            complain("interrupted; the same command goes on from here")
            return INTERRUPTED
        except (BadRecord, OSError) as error:
            complain(f"{error}; what is written stays good")
            return ExitCode.SOME_FAILED
        return self._output.exit_code

    async def _generate(self, bar: NoBar) -> None:
        outcomes = generate_candidates(self._policy, self._source, self._wanted, self._file)
        last: Outcome | None = None
        async with aclosing(outcomes):
            async for last in outcomes:
                bar.advance()
                self._left_out.update(last.left_out)
                if isinstance(last, NotGenerated):
                    self._failed[last.reason] += 1
                    self._output.note(_code(last))
                    with bar.paused():
                        complain(_told(last))
                elif last.error is not None:
                    self._output.note(ExitCode.SOME_FAILED)
        if self._num_left and isinstance(last, NotGenerated):
            complain("the endpoint would not answer the others either; they were not asked")

    @property
    def _num_left(self) -> int:
        done = self._file.num_prompts + self._failed.total()
        return self._source.num_prompts - done

    def _summary(self, path: Path) -> Table:
        table = Table("what", "reason", "number", title=printable(str(path)), title_justify="left")
        table.columns[2].justify = "right"
        table.add_row("prompts with candidates", "", str(self._file.num_prompts))
        for reason, count in sorted(self._failed.items()):
            table.add_row("prompts without", reason, str(count))
        if self._num_left:
            table.add_row("prompts not asked yet", "", str(self._num_left))
        for reason, count in sorted(self._left_out.items()):
            table.add_row("answers left out", reason, str(count))
        return table


def _code(failed: NotGenerated) -> ExitCode:
    if failed.concerns_all:
        return ExitCode.USAGE
    if failed.reason is Reason.UNAVAILABLE:
        return ExitCode.UNREACHABLE
    return ExitCode.DEADLINE if failed.reason is Reason.TIMEOUT else ExitCode.SOME_FAILED


def _told(failed: NotGenerated) -> str:
    place = f"line {failed.prompt.number + 1}: {failed.reason}"
    why = failed.error if failed.error is not None else ", ".join(failed.left_out)
    return printable(f"{place}: {why}", _MAX_SHOWN).plain
