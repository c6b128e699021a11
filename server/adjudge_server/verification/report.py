"""What a verification found, as a page of text and as JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Fact:
    """One line: what was measured, and what it came to."""

    name: str
    value: float | int | str | bool | None
    """None: it could not be measured, and `note` says why."""
    unit: str = ""
    note: str = ""
    passed: bool | None = None
    """None: there is nothing to pass."""

    def __str__(self) -> str:
        value = f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)
        mark = {True: "ok", False: "FAIL", None: ""}[self.passed]
        shown = "-" if self.value is None else f"{value} {self.unit}".rstrip()
        line = f"  {mark:<4} {self.name:<44} {shown}"
        return f"{line}  ({self.note})" if self.note else line


@dataclass(frozen=True, slots=True)
class Section:
    """Facts that belong together, and the critic's own words where it was asked to write."""

    title: str
    facts: Sequence[Fact]
    words: Sequence[tuple[str, str]] = field(default=())
    """What was asked for, and what it wrote."""


@dataclass(frozen=True, slots=True)
class Report:
    """See `as_text` and `as_json`."""

    title: str
    sections: Sequence[Section]

    @property
    def passed(self) -> bool:
        """Whether nothing failed that can."""
        return all(f.passed is not False for section in self.sections for f in section.facts)

    def as_text(self) -> str:
        return "\n".join(self._lines())

    def as_json(self) -> str:
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2) + "\n"

    def _lines(self) -> Iterator[str]:
        yield self.title
        yield "=" * min(len(self.title), WIDTH)
        for section in self.sections:
            yield ""
            yield section.title
            yield from map(str, section.facts)
            for asked, written in section.words:
                yield f"       {asked}"
                yield from (f"       | {line}" for line in written.splitlines() or [""])
        yield ""
        yield "all is well" if self.passed else "SOMETHING IS WRONG: see the lines marked FAIL"
