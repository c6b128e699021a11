"""Results as tables for people."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adjudge_reranker.cli.jobs import Job
from adjudge_reranker.errors import RewardError
from adjudge_reranker.model_info import ModelInfo, TemplateKind
from adjudge_reranker.ranking import Ranking
from adjudge_reranker.types import (
    CompareOutcome,
    CompareResult,
    Comparison,
    Failure,
    Provenance,
    Reward,
    ScoreOutcome,
    ScoreResult,
)

_MAX_CHARACTERS = 300
_NOTHING = "-"


def score_table(job: Job, result: ScoreResult) -> Table:
    table = new_table(job, result.provenance, "#", "reward", "± sd", "mode", "candidate")
    for index, outcome in enumerate(result.outcomes):
        mode = _label(outcome.mode) if isinstance(outcome, Reward) else _NOTHING
        text = _candidate(job.candidates[index], outcome)
        table.add_row(str(index), *_reward_cells(outcome), mode, text)
    return table


def compare_table(job: Job, result: CompareResult) -> Table:
    table = new_table(
        job, result.provenance, "pair", "margin", "preference", "position bias", "first", "second"
    )
    for (first, second), outcome in zip(job.compared_pairs(), result.outcomes, strict=True):
        table.add_row(
            f"{first} : {second}",
            *_comparison_cells(outcome),
            printable(job.candidates[first]),
            _candidate(job.candidates[second], outcome),
        )
    return table


def rank_table(job: Job, ranking: Ranking[str]) -> Table:
    table = new_table(
        job,
        ranking.provenance,
        "rank",
        "reward",
        "± sd",
        "margin",
        "preference",
        "position bias",
        "candidate",
    )
    for place, entry in enumerate(ranking.entries, start=1):
        failed = isinstance(entry.outcome, Failure)
        table.add_row(
            _NOTHING if failed else str(place),
            *_reward_cells(entry.outcome),
            *_comparison_cells(entry.against_best),
            _candidate(entry.candidate, entry.outcome, entry.against_best),
        )
    return table


def failed_line(job: Job, error: RewardError) -> Text:
    """For a job that failed as a whole."""
    return Text.assemble(printable(title(job)), ": ", (printable(str(error)).plain, "red"))


def model_tables(model: ModelInfo) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("model", model.name),
        ("revision", model.revision),
        ("fingerprint", model.fingerprint),
        ("weights epoch", str(model.weights_epoch)),
        ("family", model.family),
        ("runs on", ", ".join(filter(None, (model.device, model.dtype)))),
        ("can", ", ".join(model.capabilities)),
        ("noise floor", f"{number(model.noise_floor)} nats"),
        ("prefers right to wrong", _YES_NO[model.prefers_right]),
        ("pictures", ", ".join(f"{k} {v}" for k, v in model.preprocessing.items())),
        ("server", model.server_version),
        ("its models", ", ".join(model.served_models)),
    ):
        facts.add_row(Text(name, style="bold"), printable(value))
    templates = Table("template", "kind", "rewards", "answers", "hash")
    for template in model.templates:
        pointwise = template.kind is TemplateKind.POINTWISE
        templates.add_row(
            printable(f"{template.name} v{template.version}"),
            template.kind,
            f"{_label(template.min_reward)} to {_label(template.max_reward)}" if pointwise else "",
            str(len(template.answers)),
            template.hash[:12],
        )
    return Group(facts, "", templates)


def title(job: Job) -> str:
    return job.prompt if job.id is None else f"{job.id}  {job.prompt}"


def provenance_line(provenance: Provenance) -> Text:
    milliseconds = 1000 * (provenance.total_seconds or 0.0)
    return printable(
        f"{provenance.model}, epoch {provenance.weights_epoch}, {provenance.template}, "
        f"{milliseconds:.0f} ms"
    )


def verdict(outcome: Reward | Comparison | Failure) -> str:
    """The number of a critique in words."""
    if isinstance(outcome, Failure):
        return f"failed: {_reason(outcome.error)}"
    if isinstance(outcome, Reward):
        return f"reward {number(outcome.reward)} ± {number(outcome.standard_deviation)}"
    return f"margin {outcome.margin:+.2f}, preference {outcome.preference:.3f}"


def number(value: float | None) -> str:
    """With decimals that suit rewards of 0 to 100 as well as those of 0 to 1."""
    if value is None:
        return _NOTHING
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


_YES_NO = {True: "yes", False: "no", None: "it said neither"}


def _label(score: float | None) -> str:
    """A score as the critic would write it."""
    return _NOTHING if score is None else f"{score:g}"


def printable(text: str, limit: int | None = _MAX_CHARACTERS) -> Text:
    """Text that strangers wrote, without the power to style, move or recolour the terminal."""
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    # Escape sequences start with a control character; rich's own markup is inert in a Text.
    shown = (c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
    return Text("".join(shown))


def new_table(job: Job, provenance: Provenance, *columns: str) -> Table:
    """Numbers to the right and never wrapped, texts to the left."""
    table = Table(
        title=printable(title(job)),
        caption=provenance_line(provenance),
        title_justify="left",
        caption_justify="left",
    )
    for column in columns:
        texts = column in ("candidate", "first", "second", "critique", "verdict")
        table.add_column(column, justify="left" if texts else "right", no_wrap=not texts)
    return table


def _reward_cells(outcome: ScoreOutcome) -> tuple[str, str]:
    if isinstance(outcome, Failure):
        return "failed", _NOTHING
    return number(outcome.reward), number(outcome.standard_deviation)


def _comparison_cells(outcome: CompareOutcome | None) -> tuple[str, str, str]:
    if outcome is None:
        return _NOTHING, _NOTHING, _NOTHING
    if isinstance(outcome, Failure):
        return "failed", _NOTHING, _NOTHING
    bias = _NOTHING if outcome.position_bias is None else f"{outcome.position_bias:+.2f}"
    return f"{outcome.margin:+.2f}", f"{outcome.preference:.3f}", bias


def _candidate(text: str, *outcomes: ScoreOutcome | CompareOutcome | None) -> Text:
    """The candidate, and below it whatever should make its reader cautious."""
    shown = printable(text) if text else Text("(empty)", style="dim")
    for note in _notes(outcomes):
        shown.append(f"\n{note}", style="italic")
    return shown


def _notes(outcomes: Iterable[ScoreOutcome | CompareOutcome | None]) -> Iterable[str]:
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            yield printable(f"{_reason(outcome.error)}: {outcome.error.message}").plain
        elif isinstance(outcome, Comparison):
            if abs(outcome.position_bias or 0.0) > abs(outcome.margin):
                yield "the verdict flips with the order"
            if outcome.within_noise:
                yield "the margin is within the noise floor"


def _reason(error: RewardError) -> str:
    return error.reason or error.code.name
