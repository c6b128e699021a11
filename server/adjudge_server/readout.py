"""From log-probabilities to rewards and margins: pure maths that refuses what is no measurement."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adjudge_server.critic import Reading
from adjudge_server.errors import AdjudgeError, CriticFailure, OffFormat
from adjudge_server.templates import RewardKind, Template

Floats = NDArray[np.float64]
NOT_FINITE = "the critic produced a number that is not finite"


@dataclass(frozen=True, slots=True)
class Reward:
    """A pointwise judgement. Scores and deviation in the template's units."""

    reward: float
    """Expected score: sum(s p(s)) / sum(p(s)) (G-Eval, arXiv 2303.16634). Or log p(yes) - log p(no)
    in nats: the log-odds of what VQAScore (arXiv 2404.01291) takes the probability of. Or what a
    scalar head gave."""
    mode: float | None
    """None, like the deviation, where the answers are no scores."""
    standard_deviation: float | None
    valid_mass: float | None
    """Probability of any answer, after the opening. None, like the opening mass, where there are no
    answers."""
    opening_mass: float | None
    """Log-probability of the template's opening, nats; at most 0."""
    distribution: tuple[float, ...]
    """Probability of each of the template's answers given that one of them is spoken."""
    member_spread: float | None = None
    """Standard deviation over the members of an ensemble, on their common scale; see `combining`.
    None, like the members, for critics."""
    members: "tuple[MemberReward, ...]" = ()


@dataclass(frozen=True, slots=True)
class MemberReward:
    """What one member of an ensemble said."""

    model: str
    reward: Reward
    """In its own units."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A pairwise judgement. Margins in nats, positive means first."""

    margin: float
    preference: float
    first_probability: float
    second_probability: float
    tie_probability: float
    """0 where the template knows no tie."""
    position_bias: float | None
    """None where only one order was read."""
    valid_mass: float
    """Probability of any answer, after the opening; the lower of the orders."""
    opening_mass: float
    """Log-probability of the template's opening, nats; the lower of the orders."""
    within_noise: bool


def reward(template: Template, reading: Reading) -> Reward:
    """The reward that a pointwise reading means.

    Raises CriticFailure for a number that is not finite, OffFormat where the opening or valid mass
    is under the template's floor.
    """
    if template.reward is RewardKind.SCALAR:
        return _scalar(reading)
    masses, probabilities = _checked(template, reading)
    if template.reward is RewardKind.LOG_ODDS:
        return Reward(
            reward=_log_odds(reading),
            mode=None,
            standard_deviation=None,
            valid_mass=masses.valid,
            opening_mass=masses.opening,
            distribution=tuple(probabilities.tolist()),
        )
    scores = np.array(template.scores)
    expected = float(scores @ probabilities)
    variance = float((scores - expected) ** 2 @ probabilities)
    # Rounding may carry a sum of products past the ends of the range by an ulp.
    return Reward(
        reward=min(max(expected, float(scores.min())), float(scores.max())),
        mode=float(scores[probabilities.argmax()]),
        standard_deviation=variance**0.5,
        valid_mass=masses.valid,
        opening_mass=masses.opening,
        distribution=tuple(probabilities.tolist()),
    )


def comparison(template: Template, readings: Sequence[Reading], noise_floor: float) -> Comparison:
    """The comparison that the readings of one pair mean: (a, b), or (a, b) and (b, a).

    Both orders give margin (m(a,b) - m(b,a)) / 2 and position bias (m(a,b) + m(b,a)) / 2, so that
    swapping the pair negates the margin exactly. The probabilities of the two orders are averaged
    before anything is decided on them (arXiv 2503.03064). Raises as `reward` does.
    """
    read = [_checked(template, reading) for reading in readings]
    margins = [_log_odds(reading) for reading in readings]
    if len(readings) == 1:
        ((_, probabilities),) = read
        margin, bias = margins[0], None
    else:
        (_, given), (_, swapped) = read
        probabilities = (given + swapped[[1, 0, *range(2, swapped.size)]]) / 2
        margin, bias = (margins[0] - margins[1]) / 2, (margins[0] + margins[1]) / 2
    first, second, *ties = probabilities.tolist()
    tie = sum(ties)
    return Comparison(
        margin=margin,
        preference=min(first + tie / 2, 1.0),
        first_probability=first,
        second_probability=second,
        tie_probability=tie,
        position_bias=bias,
        valid_mass=min(masses.valid for masses, _ in read),
        opening_mass=min(masses.opening for masses, _ in read),
        within_noise=abs(margin) < noise_floor,
    )


Outcome = Reward | Comparison | AdjudgeError
"""What comes of one candidate or pair."""


@dataclass(frozen=True, slots=True)
class _Masses:
    opening: float
    valid: float


def _checked(template: Template, reading: Reading) -> tuple[_Masses, Floats]:
    """The masses, and the answers' probabilities given that one of them is spoken."""
    log_probs = reading.answer_log_probs
    if not (np.isfinite(reading.opening_mass) and np.isfinite(log_probs).all()):
        raise CriticFailure(NOT_FINITE)
    valid_log_mass = float(np.logaddexp.reduce(log_probs))
    valid = min(float(np.exp(valid_log_mass)), 1.0)
    opening = min(reading.opening_mass, 0.0)
    if opening < template.min_opening_mass or valid < template.min_valid_mass:
        raise OffFormat(
            f"the critic would not have answered in the format of {template.name}:"
            f" opening mass {opening:.3g} nats, valid mass {valid:.3g}",
            opening_mass=opening,
            valid_mass=valid,
        )
    probabilities = np.exp(log_probs - valid_log_mass)
    return _Masses(opening, valid), probabilities / probabilities.sum()


def _scalar(reading: Reading) -> Reward:
    if reading.scalar is None or not np.isfinite(reading.scalar):
        raise CriticFailure(NOT_FINITE)
    return Reward(
        reward=reading.scalar,
        mode=None,
        standard_deviation=None,
        valid_mass=None,
        opening_mass=None,
        distribution=(),
    )


def _log_odds(reading: Reading) -> float:
    """Of the first answer against the second, nats."""
    first, second = reading.answer_log_probs[:2].tolist()
    return float(first - second)
