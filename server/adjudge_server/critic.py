"""What a critic is to the rest of the server: text and pictures in, log-probabilities out.

A critic knows nothing of rewards, margins or protobuf. Pointwise and pairwise are the same question
to it: after this text and these pictures, how probable is each of these answers?
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from adjudge_server.caches import Memory
from adjudge_server.content import Role
from adjudge_server.errors import AdjudgeError, InputTooLong
from adjudge_server.images import Picture
from adjudge_server.templates import Kind, Template


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation said."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One question to a critic: a filled template and its pictures."""

    template: Template
    text: str
    """The user's turn, after the pictures."""
    head: str
    """The beginning of `text` that all queries of the same group have in common."""
    pictures: tuple[Picture, ...]
    prompt: str
    candidates: tuple[str, ...]
    """What was filled in as prompt, and as candidate or as first and second: in `text` already."""
    group: str
    """Equal for queries with the same template, head and pictures (or the same conversation): their
    work can be shared."""
    turns: tuple[Turn, ...] = ()
    """The prompt turn by turn, for templates that take a conversation."""


class Prepared(Protocol):
    """A query made ready for the model, off the model's thread. Immutable."""

    @property
    def group(self) -> str: ...
    @property
    def shared_tokens(self) -> int:
        """Leading tokens that the group has in common, pictures included."""
        ...

    @property
    def own_tokens(self) -> int:
        """The other tokens, those of the answer tree included."""
        ...

    @property
    def image_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What the model said to one prepared query, or what its scalar head gave."""

    opening_mass: float
    """Log-probability of the template's opening, nats."""
    answer_log_probs: NDArray[np.float64]
    """(num answers,) log-probabilities given the opening, nats, in the template's order."""
    computed_tokens: int
    """Tokens that went through the language model on this query's account; what a group shares is
    on the account of one of its queries."""
    scalar: float | None = None
    """What a scalar head gave; such critics say nothing, so there are no answers."""

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Everything that was read, but the opening mass."""
        return self.answer_log_probs if self.scalar is None else np.array([self.scalar])

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.opening_mass) and np.isfinite(self.numbers).all())


@dataclass(frozen=True, slots=True)
class Written:
    """One more token of a critique."""

    token: int
    text: str
    """What it adds to the text; empty while a character is incomplete."""


@dataclass(frozen=True, slots=True)
class CriticCard:
    """Who a critic is."""

    name: str
    revision: str
    fingerprint: str
    family: str
    dtype: str
    device: str
    templates: tuple[Template, ...]
    sees_images: bool
    max_input_tokens: int
    max_tiles: int = 0
    """Of one picture, the whole one's included; 0 where pictures are not cut into tiles."""

    def default_template(self, kind: Kind) -> Template | None:
        return next((t for t in self.templates if t.kind is kind), None)


@dataclass(slots=True)
class Spare:
    """Weights beside those that a critic runs on."""

    card: CriticCard
    """The critic's with them."""
    tensors: Mapping[str, Any]
    """In the critic's own terms."""


class WeightsLost(RuntimeError):
    """A critic's weights are neither the old nor the new ones: it must not be asked."""


class SomeFailed(Exception):
    """Raised by `forward` where items failed, each by itself: asking again in parts is no help."""

    def __init__(self, outcomes: "Sequence[Reading | AdjudgeError]") -> None:
        """`outcomes`: for each item of the batch in order."""
        errors = [outcome for outcome in outcomes if isinstance(outcome, AdjudgeError)]
        super().__init__(f"{len(errors)} of {len(outcomes)} items, one because {errors[0].message}")
        self.outcomes = outcomes


P = TypeVar("P", bound=Prepared)


class Critic(Protocol[P]):
    """A judging model. `prepare`, `after` and `read_weights` may be called from any thread;
    `forward`, `exchange` and the generators of `critique` only from the model's thread."""

    @property
    def card(self) -> CriticCard: ...

    def prepare(self, queries: Sequence[Query]) -> list[P | InputTooLong]:
        """Tokens and tiles, one result per query in order. Calls `leaving.check` before each."""
        ...

    def forward(self, batch: Sequence[P]) -> list[Reading]:
        """One reading per item in order. A reading does not depend on its batch-mates beyond the
        noise floor. Non-finite numbers are returned as they are, for the readout to refuse. Raises
        SomeFailed where it is known which items failed."""
        ...

    def forget(self) -> None:
        """Forgets what it remembers of earlier batches to save work."""
        ...

    def memory(self) -> Memory:
        """What it remembers now, and how often that was of use. From any thread."""
        ...

    def critique(self, item: P, max_tokens: int) -> Generator[Written, None, None]:
        """Writes the critique, greedily, one token a step; ends with the critic's turn."""
        ...

    def after(self, item: P, written: Sequence[Written], start: int, opening: str) -> P:
        """The same query, its answers read in a critique, at a character of what was written: after
        the tokens that end there or before, what of the text remains up to there, and this opening.
        Raises InputTooLong, and ValueError where no token begins there.
        """
        ...

    def read_weights(self, directory: Path) -> Spare:
        """Other weights of the same model. Changes nothing. Raises ValueError, by name, for what is
        not sound or does not fit, and whatever a broken file's reader raises."""
        ...

    def exchange(self, spare: Spare) -> None:
        """Puts the spare weights, and their card, in the place of those at work, which the spare
        has from then on: exchanging again undoes it. What was remembered is forgotten.

        Raises WeightsLost where a failure left a mixture; with any other exception nothing changed.
        """
        ...


@runtime_checkable
class Remote(Protocol):
    """A critic whose model runs elsewhere, and may be away."""

    def beat(self) -> None:
        """Asks whether it is there, and the same as before. Raises where not. From any thread, one
        at a time."""
        ...

    def close(self) -> None:
        """Gives up what is still asked."""
        ...
