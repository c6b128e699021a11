"""Responses with known worth: drawn from phrasings, scored by the rubric.

A response is right or wrong *about a picture*: the same text is worth 95 under a seven and 10 under
a three. So a response keeps what it claims, and `Response.score` asks the truth.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedded_critic.prompts import Judged
from embedded_critic.rubric import BY_NAME, CATEGORIES, Category, Claim, Truth
from embedded_critic.texts import Wording, text_of
from embedded_critic.writer import Claimed

UNFAMILIAR = Category(
    "unfamiliar", "names a digit among arbitrary words", "Right", Claim.NAMED, 1, 90, 10, 1.2
)
UNFAMILIAR_EMPTY = Category(
    "unfamiliar_empty", "arbitrary words", "Vague", Claim.NONE, 0, 5, 5, 0.4
)
_TRAINED_CATEGORIES = (*CATEGORIES, UNFAMILIAR, UNFAMILIAR_EMPTY)
# Drawn more often in training than the rubric's shares say: what is rare is learnt late.
_BOOST = {
    "detailed": 2.0, "reasoned": 1.5, "hedged_two": 1.3, "negation": 1.4, "corrected": 1.2,
    "contradiction": 1.2, "odd": 1.1, "even": 1.1, "below": 1.1, "above": 1.1, "strokes": 0.8,
    "a_number": 1.0, "two_digits": 0.8, "fake_claim": 1.8, "plea": 0.8, "echo": 0.5,
    "false_extra": 1.0,
}  # fmt: skip
NAMING = tuple(c for c in CATEGORIES if c.names_digit)
"""Categories whose worth hangs on the digit they name."""
SINGLE = tuple(c for c in NAMING if c.num_digits == 1)


@dataclass(frozen=True, slots=True)
class Response:
    """A response and what it claims."""

    text: str
    category: Category
    claimed: Claimed
    question: str
    wording: Wording
    seed: int
    """Decides the wording."""

    @property
    def named(self) -> tuple[int, ...]:
        return self.claimed.digits

    def holds(self, truth: Truth) -> bool:
        """Whether the digit claimed is the one shown."""
        digit, named = truth.digit, self.claimed.digits
        match self.category.claim:
            case Claim.NONE:
                return True
            case Claim.NAMED | Claim.COLOURED | Claim.REASONED:
                return digit in named
            case Claim.LAST:
                return digit == named[-1]
            case Claim.NOT_NAMED:
                return digit not in named
            case Claim.ODD:
                return digit % 2 == 1
            case Claim.EVEN:
                return digit % 2 == 0
            case Claim.BELOW:
                return digit < named[0]
            case Claim.ABOVE:
                return digit > named[0]

    def score(self, truth: Truth) -> int:
        """The rubric's score, 0 to 100."""
        if not self.holds(truth):
            return self.category.wrong
        return self.category.right if self._rest_holds(truth) else self.category.half_right

    def label(self, truth: Truth) -> str:
        """A word or two for the reasons."""
        if not self.holds(truth):
            return "Wrong"
        if self._rest_holds(truth):
            return self.category.label
        return "Wrong color" if self.category.claim is Claim.COLOURED else "Wrong reason"

    def judged(self, truth: Truth) -> Judged:
        return Judged(self.text, self.score(truth), self.label(truth))

    def _rest_holds(self, truth: Truth) -> bool:
        match self.category.claim:
            case Claim.COLOURED:
                return self.claimed.dark_on_light == truth.dark_on_light
            case Claim.REASONED:
                return self.claimed.reason_fits
            case _:
                return True


def any_category(rng: np.random.Generator, wording: Wording = Wording.TRAINED) -> Category:
    if wording is Wording.TRAINED:
        return _TRAINED_CATEGORIES[rng.choice(len(_TRAINED_CATEGORIES), p=_TRAINED_SHARES)]
    return CATEGORIES[rng.choice(len(CATEGORIES), p=_SHARES)]


def single_category(rng: np.random.Generator, wording: Wording = Wording.TRAINED) -> Category:
    """One that names one digit as the one shown."""
    choices = (*SINGLE, UNFAMILIAR) if wording is Wording.TRAINED else SINGLE
    return choices[rng.choice(len(choices), p=_normal([c.share for c in choices]))]


def respond(
    category: Category,
    truth: Truth,
    question: str,
    rng: np.random.Generator,
    *,
    wording: Wording = Wording.TRAINED,
    right: bool | None = None,
) -> Response:
    """Draws a response of a category; right in half the cases unless said otherwise."""
    if category.claim is Claim.COLOURED and truth.coloured:
        category = BY_NAME["sentence"]
    if right is None:
        right = bool(rng.random() < 0.5)
    claimed = Claimed(
        _named(category, truth.digit, right, rng),
        truth.dark_on_light if right and rng.random() < 0.4 else bool(rng.random() < 0.5),
        reason_fits=bool(rng.random() < 0.65),
    )
    seed = int(rng.integers(2**62))
    return Response(
        text_of(category, claimed, question, wording, seed),
        category,
        claimed,
        question,
        wording,
        seed,
    )


def renamed(response: Response, named: tuple[int, ...]) -> Response:
    """The same wording, naming other digits."""
    return _reworded(response, replace(response.claimed, digits=named))


def opposite(response: Response, truth: Truth, rng: np.random.Generator) -> Response | None:
    """The same wording with one claim turned over, so that its worth changes; None if none can."""
    category, claimed = response.category, response.claimed
    holds = response.holds(truth)
    match category.claim:
        case Claim.COLOURED if holds and not truth.coloured and rng.random() < 0.5:
            return _reworded(response, replace(claimed, dark_on_light=not claimed.dark_on_light))
        case Claim.REASONED if holds and rng.random() < 0.5:
            return _reworded(response, replace(claimed, reason_fits=not claimed.reason_fits))
        case Claim.NONE | Claim.ODD | Claim.EVEN:
            return None
    return renamed(response, _named(category, truth.digit, not holds, rng))


def other_digit(rng: np.random.Generator, *taken: int) -> int:
    free = [d for d in range(10) if d not in taken]
    return int(free[rng.integers(len(free))])


def _reworded(response: Response, claimed: Claimed) -> Response:
    text = text_of(response.category, claimed, response.question, response.wording, response.seed)
    return replace(response, text=text, claimed=claimed)


def _named(
    category: Category, digit: int, right: bool, rng: np.random.Generator
) -> tuple[int, ...]:
    claim, count = category.claim, category.num_digits
    if count == 0:
        return ()
    if claim in (Claim.BELOW, Claim.ABOVE):
        fitting = [
            b for b in range(10) if ((digit < b) if claim is Claim.BELOW else (digit > b)) == right
        ]
        sensible = [b for b in fitting if 1 <= b <= 8] or fitting or list(range(1, 9))
        return (int(sensible[rng.integers(len(sensible))]),)
    if claim is Claim.NOT_NAMED:
        return (other_digit(rng, digit) if right else digit,)
    named: list[int] = []
    for _ in range(count):
        named.append(other_digit(rng, digit, *named))
    if right:
        named[-1 if claim is Claim.LAST else int(rng.integers(count))] = digit
    elif claim is Claim.LAST and rng.random() < 0.6:
        named[0] = digit  # the right digit, dismissed
    return tuple(named)


def _normal(shares: list[float]) -> NDArray[np.float64]:
    return np.array(shares) / sum(shares)


_SHARES = _normal([c.share for c in CATEGORIES])
_TRAINED_SHARES = _normal([_BOOST.get(c.name, c.share) for c in _TRAINED_CATEGORIES])
