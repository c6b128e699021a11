"""What is judged, together with what the critic should say: pairs, scores and groups."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

Picture: TypeAlias = Path | bytes
"""A file, read when it is judged, or the bytes of one."""


class Preferred(StrEnum):
    """Which candidate of a pair its label calls better."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What the kinds of items share."""

    place: str
    """Where it stands in its file, such as "line 3"."""
    id: Any
    """Whatever JSON value the file gives, or else its number in the file, from 0."""
    subset: str | None = None
    """What figures are grouped by."""
    cluster: str | int | None = None
    """Items of one cluster are not independent, for one because they share a picture. None for an
    item by itself."""
    prompt: str
    images: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPair(Labelled):
    """Two candidates, and which of them is better."""

    candidates: tuple[str, str]
    preferred: Preferred


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledScore(Labelled):
    """A candidate, and how good it is."""

    candidate: str
    score: float
    """In [0, 100]; higher is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledGroup(Labelled):
    """Candidates of which the chosen are better than the rejected; each is scored by itself."""

    chosen: tuple[str, ...]
    """At least one."""
    rejected: tuple[str, ...]
    """At least one."""


Item: TypeAlias = LabelledPair | LabelledScore | LabelledGroup


class BadRecord(ValueError):
    """A file, or a record in it, is not what its format says. The message says where and what."""

    def __init__(
        self, path: str, problem: str, *, place: str | None = None, field: str | None = None
    ) -> None:
        where = ", ".join(part for part in (path, place) if part)
        super().__init__(f"{where}: {field_name(field)}{problem}")
        self.path = path
        self.place = place
        """Such as "line 3"; None if the file as a whole is to blame."""
        self.field = field
        """None if no one field is to blame."""


def field_name(field: str | None) -> str:
    """How a message begins that blames `field`."""
    return f'"{field}" ' if field else ""
