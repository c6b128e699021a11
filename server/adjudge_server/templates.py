"""Templates: critic prompts with slots, and what counts as an answer to them.

A template is data (a table in a TOML file, see `template_files`). It knows text only: how the text
becomes tokens is the critic's affair, how probabilities become rewards is `readout`'s.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

CANDIDATE_SLOTS = frozenset({"candidate", "first", "second"})
SLOTS = CANDIDATE_SLOTS | {"prompt", "reference", "rubric"}
_SLOT = re.compile(rf"\{{({'|'.join(sorted(SLOTS))})\}}")


class Kind(Enum):
    POINTWISE = "pointwise"
    PAIRWISE = "pairwise"


class Readout(Enum):
    DIRECT = "direct"
    AFTER_CRITIQUE = "after-critique"


class RewardKind(Enum):
    """What the reward of a pointwise template is."""

    EXPECTED = "expected"
    """The expected score, in the unit and range of the scores."""
    LOG_ODDS = "log-odds"
    """log p(yes) - log p(no), in nats, without a range."""
    SCALAR = "scalar"
    """What a scalar head gives, in its own unit, without a range. There are no answers, and the
    critic reads the conversation as its own chat template lays it out."""
    ENSEMBLE = "ensemble"
    """What an ensemble makes of its members' rewards. Nobody is asked with such a template."""


class VerdictPlace(Enum):
    """Which of several verdicts in a critique is the critic's."""

    START = "start"
    """Only what the critique begins with: a number further on is about something else."""
    FIRST = "first"
    LAST = "last"


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
    """Pairwise: first, second and perhaps tie. Log-odds: yes and no. Otherwise scores, rising."""
    terminators: tuple[str, ...]
    """What may follow an answer that a longer answer extends (`8` and `85`), beside the end of the
    critic's turn, which always may."""
    min_opening_mass: float
    """Nats. Below it the critic would not have spoken in this format: a failure."""
    min_valid_mass: float
    """Probability. Below it likewise."""
    readouts: tuple[Readout, ...]
    other_openings: tuple[str, ...] = ()
    """Further openings that critics are known to write; a verdict after one of them is found."""
    after: str = ""
    """A verdict counts only after this text (`</think>`); empty: anywhere."""
    verdict: VerdictPlace = VerdictPlace.FIRST
    reward: RewardKind = RewardKind.EXPECTED
    """Means nothing for pairwise templates."""
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
    def openings(self) -> tuple[str, ...]:
        """All known openings, the prefilled one first."""
        return (self.opening, *self.other_openings)

    @property
    def scores(self) -> tuple[float, ...]:
        """What each answer is worth; empty where answers are no scores."""
        return tuple(answer.score for answer in self.answers if answer.score is not None)

    def render(self, values: Mapping[str, str]) -> Rendered:
        """Fills every slot. Values are plain text: a slot named inside a value is not filled."""
        pieces = _SLOT.split(self.text)  # text, slot, text, slot, …, text
        filled = [values[piece] if i % 2 else piece for i, piece in enumerate(pieces)]
        first = next(i for i in range(1, len(pieces), 2) if pieces[i] in CANDIDATE_SLOTS)
        return Rendered("".join(filled), "".join(filled[:first]))


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else asdict(value)
