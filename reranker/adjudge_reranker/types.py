"""What comes back from a critic. Immutable; a number that was not measured is None, never 0.0."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from adjudge_reranker.errors import RewardError


class Readout(StrEnum):
    """Where the number is read."""

    DIRECT = "direct"
    """In one pass, at the place where the critic would write its verdict."""
    AFTER_CRITIQUE = "after_critique"
    """At the verdict that the critic writes after its reasons."""


class OrderPolicy(StrEnum):
    """In which orders a pair is put before the critic."""

    BOTH = "both"
    """Averaged, so that swapping a pair negates its margin."""
    AS_GIVEN = "as_given"
    """Half the price; the critic's position bias stays in the margin."""


class AnswerProbability(NamedTuple):
    """One answer's share of a distribution; `dict()` of several is a mapping."""

    answer: str
    probability: float
    """In [0, 1]."""


@dataclass(frozen=True, slots=True)
class Reward:
    """How good a candidate is, by a pointwise template."""

    reward: float
    """Finite; higher is better. The expected score, within the template's range; of a yes/no
    template the log-odds in nats, of a scalar head its value, both without a range; of an ensemble
    what it makes of its members' rewards."""
    mode: float | None = None
    """The most probable score."""
    standard_deviation: float | None = None
    """Of the score distribution, in the reward's units; 0 or more."""
    valid_mass: float | None = None
    """Probability of any well-formed answer, in [0, 1]."""
    opening_mass: float | None = None
    """Log-probability of the template's opening, in nats; at most 0."""
    distribution: tuple[AnswerProbability, ...] = ()
    """Probabilities that sum to 1; empty unless asked for with `include_distribution`."""
    member_spread: float | None = None
    """Of an ensemble: the standard deviation over its members' rewards, on their common scale."""
    members: "tuple[MemberReward, ...]" = ()
    """Of an ensemble: what each member said."""


@dataclass(frozen=True, slots=True)
class MemberReward:
    """What one member of an ensemble said of a candidate."""

    model: str
    reward: Reward
    """In the member's own units, before it was put on the common scale."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which candidate of a pair is better, by a pairwise template."""

    margin: float
    """log p(first) - log p(second) in nats, given that it is no tie, finite; positive: first."""
    preference: float
    """P(first) + P(tie) / 2, in [0, 1]. Knows ties, so rank by it."""
    first_probability: float | None = None
    second_probability: float | None = None
    tie_probability: float | None = None
    position_bias: float | None = None
    """Half the sum of the two orders' margins, in nats; 0 means none. Larger than the margin in
    size: the verdict flipped with the order. None if only one order was asked for."""
    valid_mass: float | None = None
    """Probability of any well-formed verdict, in [0, 1]; the lower of the orders."""
    opening_mass: float | None = None
    """Log-probability of the template's opening, in nats; the lower of the orders."""
    within_noise: bool = False
    """Whether the margin is smaller than the noise floor that the server measured."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no number. Has none on purpose: a failure is never a reward."""

    error: RewardError


ScoreOutcome: TypeAlias = Reward | Failure
CompareOutcome: TypeAlias = Comparison | Failure


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a response came about; enough to reproduce it."""

    model: str
    model_fingerprint: str
    weights_epoch: int
    """Of every number in the response."""
    template: str
    template_hash: str
    total_seconds: float | None = None
    """From the call's arrival at the server to its answer."""
    queue_seconds: float | None = None
    """Waiting for the model, the longest of the items."""
    inference_seconds: float | None = None
    """In the model, the longest of the items."""
    input_tokens: int = 0
    """Of all items as the critic sees them, as if each stood alone; images included."""
    image_tokens: int = 0
    computed_tokens: int = 0
    """Those that really went through the language model."""
    cached_tokens: int = 0
    cached_images: int = 0
    members: "tuple[MemberProvenance, ...]" = ()
    """Of an ensemble: who its members were."""


@dataclass(frozen=True, slots=True)
class MemberProvenance:
    """Which weights of a member of an ensemble answered, and what they were asked with."""

    model: str
    model_fingerprint: str
    weights_epoch: int
    """The member's own; the ensemble's is their sum."""
    template: str
    template_hash: str


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The answer to `score`."""

    outcomes: tuple[ScoreOutcome, ...]
    """One per candidate, in the candidates' order."""
    provenance: Provenance

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """One per candidate; None where it failed."""
        return tuple(None if isinstance(o, Failure) else o.reward for o in self.outcomes)

    @property
    def failures(self) -> tuple[RewardError, ...]:
        """The errors of the candidates that failed, in order."""
        return _errors(self.outcomes)


@dataclass(frozen=True, slots=True)
class CompareResult:
    """The answer to `compare`."""

    outcomes: tuple[CompareOutcome, ...]
    """One per pair, in the pairs' order."""
    provenance: Provenance

    @property
    def margins(self) -> tuple[float | None, ...]:
        """Nats, one per pair, positive for the first; None where it failed."""
        return tuple(None if isinstance(o, Failure) else o.margin for o in self.outcomes)

    @property
    def preferences(self) -> tuple[float | None, ...]:
        """In [0, 1], one per pair, above ½ for the first; None where it failed."""
        return tuple(None if isinstance(o, Failure) else o.preference for o in self.outcomes)

    @property
    def failures(self) -> tuple[RewardError, ...]:
        """The errors of the pairs that failed, in order."""
        return _errors(self.outcomes)


def _errors(outcomes: Iterable[Reward | Comparison | Failure]) -> tuple[RewardError, ...]:
    return tuple(outcome.error for outcome in outcomes if isinstance(outcome, Failure))


class EndReason(StrEnum):
    """Why a critique ended."""

    COMPLETE = "complete"
    """The critic ended its turn."""
    LENGTH = "length"
    """It was cut off at `max_critique_tokens`."""
    UNKNOWN = "unknown"
    """A reason newer than this client."""


@dataclass(frozen=True, slots=True)
class CritiqueText:
    """The next piece of what the critic writes about an item."""

    index: int
    """The item: an index into the candidates, or into the pairs if there are any."""
    text: str


@dataclass(frozen=True, slots=True)
class CritiqueVerdict:
    """The number read at the verdict that the critic wrote, or why there is none."""

    index: int
    outcome: Reward | Comparison | Failure


@dataclass(frozen=True, slots=True)
class CritiqueEnd:
    """The critique of an item is complete."""

    index: int
    reason: EndReason
    num_tokens: int
    """Tokens written."""


CritiqueEvent: TypeAlias = CritiqueText | CritiqueVerdict | CritiqueEnd | Provenance
"""Events of an item come in order, items one after the other; the provenance comes last."""
