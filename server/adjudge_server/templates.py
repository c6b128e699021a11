"""Templates: critic prompts with slots, and what counts as an answer to them.

A template is data (a TOML table in `builtin_templates/`). It knows text only: how the text becomes
tokens is the critic's affair, how probabilities become rewards is `readout`'s.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from importlib.resources import files
from typing import Any

CANDIDATE_SLOTS = frozenset({"candidate", "first", "second"})
_SLOT = re.compile(r"\{(prompt|candidate|first|second|reference|rubric)\}")


class Kind(Enum):
    POINTWISE = "pointwise"
    PAIRWISE = "pairwise"


class Readout(Enum):
    DIRECT = "direct"
    AFTER_CRITIQUE = "after-critique"


@dataclass(frozen=True, slots=True)
class Answer:
    """Something the critic may say whose probability is read."""

    label: str
    forms: tuple[str, ...]
    """Wordings that all mean this answer; their probabilities add up."""
    score: float | None = None
    """What a pointwise answer is worth, in the reward's units."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A template with its slots filled."""

    text: str
    head: str
    """The beginning of `text` up to the first candidate: what all candidates share."""


@dataclass(frozen=True, slots=True)
class Template:
    """A critic prompt and how its answers are read."""

    name: str
    version: int
    kind: Kind
    text: str
    opening: str
    """What is prefilled after the prompt before answers are read; may be empty."""
    answers: tuple[Answer, ...]
    terminators: tuple[str, ...]
    """What may follow an answer that a longer answer extends (`8` and `85`), beside the end of the
    critic's turn, which always may."""
    min_opening_mass: float
    """Nats. Below it the critic would not have spoken in this format: a failure."""
    min_valid_mass: float
    """Probability. Below it likewise."""
    readouts: tuple[Readout, ...]
    hash: str = field(init=False)
    """Hex SHA-256 of every other field: templates with equal hashes read equal numbers."""

    def __post_init__(self) -> None:
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "hash"}
        canonical = json.dumps(fields, sort_keys=True, default=_plain)
        object.__setattr__(self, "hash", hashlib.sha256(canonical.encode()).hexdigest())

    @property
    def slots(self) -> frozenset[str]:
        return frozenset(_SLOT.findall(self.text))

    @property
    def scores(self) -> tuple[float, ...]:
        """What each answer is worth; pointwise templates only."""
        return tuple(answer.score for answer in self.answers if answer.score is not None)

    def render(self, values: Mapping[str, str]) -> Rendered:
        """Fills every slot. Values are plain text: a slot named inside a value is not filled."""
        pieces = _SLOT.split(self.text)  # text, slot, text, slot, …, text
        filled = [values[piece] if i % 2 else piece for i, piece in enumerate(pieces)]
        first = next(i for i in range(1, len(pieces), 2) if pieces[i] in CANDIDATE_SLOTS)
        return Rendered("".join(filled), "".join(filled[:first]))


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else asdict(value)


def builtin_templates() -> tuple[Template, ...]:
    """The templates that ship with the server."""
    folder = files("adjudge_server") / "builtin_templates"
    sources = sorted(f.name for f in folder.iterdir() if f.name.endswith(".toml"))
    return tuple(t for name in sources for t in parse_templates((folder / name).read_text()))


def parse_templates(source: str) -> tuple[Template, ...]:
    """Reads the `[[template]]` tables of a TOML text.

    Raises ValueError, naming the template, where one makes no sense.
    """
    tables = tomllib.loads(source).get("template")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("templates are written as [[template]] tables; there are none")
    return tuple(_template(table) for table in tables)


def _template(table: Mapping[str, Any]) -> Template:
    known = dict(table)
    name = known.pop("name", None)
    try:
        _text(name)
        kind = Kind(known.pop("kind"))
        answers = (
            _score_answers(**known.pop("scores"))
            if kind is Kind.POINTWISE
            else _verdict_answers(known.pop("verdicts"))
        )
        template = Template(
            name=name,
            version=int(known.pop("version")),
            kind=kind,
            text=_text(known.pop("text")),
            opening=_text(known.pop("opening")),
            answers=answers,
            terminators=_texts(known.pop("terminators"), at_least=0),
            min_opening_mass=float(known.pop("min_opening_mass", -4.0)),
            min_valid_mass=float(known.pop("min_valid_mass", 0.5)),
            readouts=tuple(Readout(r) for r in _texts(known.pop("readouts", ["direct"]))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"template {name!r}: {error!r}") from error
    if known:
        raise ValueError(f"template {name!r}: unknown keys {sorted(known)}")
    needed = {"candidate"} if kind is Kind.POINTWISE else {"first", "second"}
    if template.slots & CANDIDATE_SLOTS != needed or "prompt" not in template.slots:
        raise ValueError(
            f"template {name!r}: a {kind.value} template has the slots prompt and"
            f" {sorted(needed)}, not {sorted(template.slots)}"
        )
    return template


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _texts(value: object, at_least: int = 1) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < at_least:  # a string is no list of letters
        raise TypeError(f"{value!r} is not a list of texts")
    return tuple(_text(item) for item in value)


def _score_answers(lowest: int, highest: int) -> tuple[Answer, ...]:
    if not lowest < highest:
        raise ValueError(f"the lowest score, {lowest}, is not below the highest, {highest}")
    return tuple(Answer(str(s), (str(s),), float(s)) for s in range(lowest, highest + 1))


def _verdict_answers(verdicts: Mapping[str, list[str]]) -> tuple[Answer, ...]:
    if set(verdicts) != {"first", "second", "tie"}:
        raise ValueError(f"verdicts must be first, second and tie, not {sorted(verdicts)}")
    return tuple(Answer(label, _texts(verdicts[label])) for label in ("first", "second", "tie"))
