"""Results as tables for people."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from adjudge_reranker.cli.jobs import Job
from adjudge_reranker.errors import RewardError
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
    style = _Style.of(result.outcomes, result.provenance)
    modes = () if style.members else ("mode",)
    table = new_table(job, result.provenance, "#", *style.columns, *modes, "candidate")
    for index, outcome in enumerate(result.outcomes):
        mode = label(outcome.mode) if isinstance(outcome, Reward) else _NOTHING
        text = _candidate(job.candidates[index], (outcome,), style.notes(outcome))
        table.add_row(str(index), *style.cells(outcome), *(mode for _ in modes), text)
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
            _candidate(job.candidates[second], (outcome,)),
        )
    return table


def rank_table(job: Job, ranking: Ranking[str]) -> Table:
    style = _Style.of((entry.outcome for entry in ranking.entries), ranking.provenance)
    compared = any(entry.against_best is not None for entry in ranking.entries)
    columns = ("margin", "preference", "position bias") if compared else ()
    table = new_table(job, ranking.provenance, "rank", *style.columns, *columns, "candidate")
    for place, entry in enumerate(ranking.entries, start=1):
        failed = isinstance(entry.outcome, Failure)
        table.add_row(
            _NOTHING if failed else str(place),
            *style.cells(entry.outcome),
            *(_comparison_cells(entry.against_best) if compared else ()),
            _candidate(
                entry.candidate, (entry.outcome, entry.against_best), style.notes(entry.outcome)
            ),
        )
    return table


def failed_line(job: Job, error: RewardError) -> Text:
    """For a job that failed as a whole."""
    return Text.assemble(printable(title(job)), ": ", (printable(str(error)).plain, "red"))


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


def label(score: float | None) -> str:
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


@dataclass(frozen=True, slots=True)
class _Style:
    """How rewards are shown: of a critic with the spread of its score distribution, of an ensemble
    with that over its members, and under the candidate what each of them said."""

    members: tuple[str, ...] = ()

    @classmethod
    def of(cls, outcomes: Iterable[ScoreOutcome], provenance: Provenance) -> "_Style":
        rewards = (outcome for outcome in outcomes if isinstance(outcome, Reward))
        members = next((reward.members for reward in rewards if reward.members), ())
        names = [member.model for member in members]
        if len(set(names)) < len(names):  # one is asked with several templates
            names = [f"{member.model} ({member.template})" for member in provenance.members]
        return cls(tuple(names))

    @property
    def columns(self) -> tuple[str, str]:
        return ("reward", "spread") if self.members else ("reward", "± sd")

    def cells(self, outcome: ScoreOutcome) -> tuple[str, str]:
        if isinstance(outcome, Failure):
            return "failed", _NOTHING
        spread = outcome.member_spread if self.members else outcome.standard_deviation
        return number(outcome.reward), number(spread)

    def notes(self, outcome: ScoreOutcome) -> Iterator[str]:
        """Each member's reward in its own units."""
        if isinstance(outcome, Reward) and outcome.members:
            said = zip(self.members, outcome.members, strict=True)
            told = ", ".join(f"{name} {number(member.reward.reward)}" for name, member in said)
            yield printable(told, limit=None).plain


def _comparison_cells(outcome: CompareOutcome | None) -> tuple[str, str, str]:
    if outcome is None:
        return _NOTHING, _NOTHING, _NOTHING
    if isinstance(outcome, Failure):
        return "failed", _NOTHING, _NOTHING
    bias = _NOTHING if outcome.position_bias is None else f"{outcome.position_bias:+.2f}"
    return f"{outcome.margin:+.2f}", f"{outcome.preference:.3f}", bias


def _candidate(
    text: str,
    outcomes: Iterable[ScoreOutcome | CompareOutcome | None],
    notes: Iterable[str] = (),
) -> Text:
    """The candidate, and below it `notes` and whatever should make its reader cautious."""
    shown = printable(text) if text else Text("(empty)", style="dim")
    for note in (*notes, *_notes(outcomes)):
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
