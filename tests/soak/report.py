"""What a soak found, against what was promised."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.server.watched import MIB
from tests.soak.run import Soaked
from tests.soak.watching import State

GROWTH = 1.05
SHOWN = 30


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float
    limit: float
    is_upper: bool = True

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit if self.is_upper else self.value >= self.limit


def bars(found: Soaked, num_pictures: int) -> list[Bar]:
    """`num_pictures`: different ones that are to be judged."""
    tally, warm, ended = found.tally, found.warm, found.ended
    answered = [
        Bar("wrong numbers", len(tally.wrong), 0),
        Bar("failures without a type, or of the server", len(tally.untyped), 0),
        Bar("complaints in the log", len(found.complaints), 0),
        Bar("the server died", not found.is_alive, 0),
        Bar("numbers checked against the truth", tally.num_checked, 1000, is_upper=False),
        Bar("different pictures judged", len(tally.pictures), num_pictures, is_upper=False),
    ]
    if not found.is_alive:  # the rest says nothing of a dead one
        return answered
    tenth = max(1, len(found.states) // 10)
    first, last = (_memory(part) for part in (found.states[:tenth], found.states[-tenth:]))
    # Not one idle moment against another: now and then tens of MiB are given back, for a while.
    most = max(state.resident_bytes for state in found.states)
    most_before = max(state.resident_bytes for state in found.warming)
    return [
        *answered,
        Bar("caches were full after the warm-up", found.caches_full, 1, is_upper=False),
        Bar("memory, at work: last tenth / first tenth, medians", last / first, GROWTH),
        Bar("memory, at work: most / most of the warm-up", most / most_before, GROWTH),
        Bar("memory, idle: end / most of the warm-up", ended.resident_bytes / most_before, GROWTH),
        Bar("threads, idle: end", ended.threads, warm.threads),
        Bar("files, idle: end", ended.files, warm.files),
        Bar("tasks, idle: end", ended.tasks, warm.tasks),
        Bar("open requests, idle: end", ended.open_requests, 0),
        Bar("open bytes, idle: end", ended.open_bytes, 0),
        Bar("open critiques, idle: end", ended.open_critiques, 0),
        Bar("tokens that wait, idle: end", ended.queue_tokens, 0),
    ]


def _memory(states: Sequence[State]) -> float:
    return median(state.resident_bytes for state in states)


def as_text(found: Soaked, met: Sequence[Bar]) -> str:
    tally = found.tally
    lines = [f"{who:15} {what:22} {number}" for (who, what), number in sorted(tally.counts.items())]
    lines += [
        "",
        f"largest difference from the truth: {tally.largest_reward_error:.2g} points,"
        f" {tally.largest_margin_error:.2g} nats",
        f"resident, MiB: {_range(found.warming)} in the warm-up,"
        f" {found.warm.resident_bytes / MIB:.0f} idle, {_range(found.states)} at work,"
        f" {found.ended.resident_bytes / MIB:.0f} idle",
        f"files, idle: {Counter(found.warm.open_files)}, then {Counter(found.ended.open_files)}",
        "",
    ]
    for title, problems in (
        ("WRONG", tally.wrong),
        ("UNTYPED", tally.untyped),
        ("COMPLAINT", found.complaints),
    ):
        lines += [f"{title}: {problem}" for problem in problems[:SHOWN]]
    for bar in met:
        sign = "<=" if bar.is_upper else ">="
        verdict = "met" if bar.is_met else "MISSED"
        lines.append(f"{verdict:6} {bar.name}: {bar.value:.5g} {sign} {bar.limit:.5g}")
    return "\n".join(lines)


def as_json(found: Soaked, met: Sequence[Bar]) -> dict[str, Any]:
    return {
        "bars": {bar.name: {**asdict(bar), "is_met": bar.is_met} for bar in met},
        "outcomes": {f"{who}: {what}": n for (who, what), n in sorted(found.tally.counts.items())},
        "warm": asdict(found.warm),
        "ended": asdict(found.ended),
        "resident_bytes": [[round(s.seconds), s.resident_bytes] for s in found.states],
    }


def _range(states: Sequence[State]) -> str:
    sizes = [state.resident_bytes / MIB for state in states] or [float("nan")]
    return f"{min(sizes):.0f} to {max(sizes):.0f}"
