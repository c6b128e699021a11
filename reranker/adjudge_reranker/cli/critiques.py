"""Critiques, put together from their events or shown as they are written."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adjudge_reranker.cli.jobs import Job
from adjudge_reranker.cli.tables import new_table, printable, provenance_line, title, verdict
from adjudge_reranker.errors import RewardError
from adjudge_reranker.types import (
    Comparison,
    CritiqueEnd,
    CritiqueEvent,
    CritiqueText,
    CritiqueVerdict,
    Failure,
    Provenance,
    Reward,
)


@dataclass(frozen=True, slots=True)
class Critique:
    """What the critic wrote about one item, and its verdict."""

    text: str
    outcome: Reward | Comparison | Failure
    end: CritiqueEnd | None
    """None if the item failed before anything was written."""


@dataclass(frozen=True, slots=True)
class Critiques:
    items: tuple[Critique, ...]
    provenance: Provenance

    @property
    def failures(self) -> tuple[RewardError, ...]:
        return tuple(i.outcome.error for i in self.items if isinstance(i.outcome, Failure))


def collect(events: Iterable[CritiqueEvent], num_items: int) -> Critiques:
    """Raises what `events` raises; the client has seen to it that nothing is missing."""
    texts = [""] * num_items
    outcomes: dict[int, Reward | Comparison | Failure] = {}
    ends: dict[int, CritiqueEnd] = {}
    provenance: Provenance | None = None
    for event in events:
        match event:
            case CritiqueText():
                texts[event.index] += event.text
            case CritiqueVerdict():
                outcomes[event.index] = event.outcome
            case CritiqueEnd():
                ends[event.index] = event
            case Provenance():
                provenance = event
    if provenance is None:
        raise ValueError("a critique without provenance")
    items = (Critique(text, outcomes[i], ends.get(i)) for i, text in enumerate(texts))
    return Critiques(tuple(items), provenance)


def critique_table(job: Job, critiques: Critiques) -> Table:
    table = new_table(job, critiques.provenance, "#", "verdict", "critique")
    for index, item in enumerate(critiques.items):
        table.add_row(str(index), verdict(item.outcome), printable(item.text, limit=None))
    return table


def show(job: Job, events: Iterable[CritiqueEvent], console: Console) -> tuple[RewardError, ...]:
    """Prints events as they come; returns why items have no number. Raises what `events` raises."""
    failures: list[RewardError] = []
    console.print(printable(title(job)), style="bold")
    item: int | None = None
    for event in events:
        if isinstance(event, Provenance):
            console.print(provenance_line(event), style="dim")
            continue
        if event.index != item:
            item = event.index
            console.print(f"\n[{item}] ", style="bold", markup=False, end="")
        match event:
            case CritiqueText():
                console.print(printable(event.text, limit=None), end="", soft_wrap=True)
            case CritiqueVerdict():
                if isinstance(event.outcome, Failure):
                    failures.append(event.outcome.error)
                console.print(Text(f" ({verdict(event.outcome)})", style="cyan"), end="")
            case CritiqueEnd():
                console.print(f" [{event.reason}]", style="dim", markup=False)
    return tuple(failures)
