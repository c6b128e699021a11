"""Responses with known worth: drawn from templates, scored by a documented rubric.

A response is right or wrong *about a picture*: the same text is worth 95 under a seven and 10 under
a three. So a response keeps what it claims, and `Response.score` asks the truth.
"""

import re
from dataclasses import dataclass
from enum import Enum

import numpy as np

from embedded_critic.phrases import (
    HELD_OUT_OFF_TOPIC,
    HELD_OUT_PHRASES,
    HELD_OUT_REFUSALS,
    INKS,
    OFF_TOPIC,
    PAPERS,
    PHRASES,
    REASONS,
    REFUSALS,
    SYLLABLES,
    WORDS,
)
from embedded_critic.templates import CATEGORIES, Category, Claim
from embedded_critic.widening import (
    EXTRA,
    EXTRA_PHRASES,
    FILLERS,
    SHARES,
    UNFAMILIAR,
    UNFAMILIAR_EMPTY,
)

_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")
_I = re.compile(r"\bi\b")
_WIDE_CATEGORIES = (*CATEGORIES, UNFAMILIAR, UNFAMILIAR_EMPTY)
_SHARES = np.array([c.share for c in CATEGORIES])
_WIDE_SHARES = np.array([SHARES.get(c.name, c.share) for c in _WIDE_CATEGORIES])
NAMING = tuple(
    c for c in CATEGORIES if c.num_digits and c.claim in (Claim.NAMED, Claim.LAST, Claim.COLOURED)
)
"""Categories whose worth hangs on the digit they name."""

TIE_BELOW = 10
"""Two responses whose rubric scores differ by less are equally good: 95 and 90, 10 and 5."""


class Wording(Enum):
    """Which phrasings responses are drawn from."""

    TRAINED = "trained"
    WIDE = "wide"  # those and more, and arbitrary words in between
    HELD_OUT = "held out"


@dataclass(frozen=True, slots=True)
class Truth:
    """What a picture shows."""

    digit: int
    dark_on_light: bool


@dataclass(frozen=True, slots=True)
class Response:
    """A response and what it claims."""

    text: str
    category: Category
    named: tuple[int, ...]
    dark_on_light: bool
    """What it says of ink and paper; COLOURED only."""
    question: str
    wording: Wording
    seed: int
    """Decides the wording."""

    def holds(self, truth: Truth) -> bool:
        """Whether the digit claimed is the one shown."""
        digit = truth.digit
        match self.category.claim:
            case Claim.NONE:
                return True
            case Claim.NAMED | Claim.COLOURED:
                return digit in self.named
            case Claim.LAST:
                return digit == self.named[-1]
            case Claim.NOT_NAMED:
                return digit not in self.named
            case Claim.ODD:
                return digit % 2 == 1
            case Claim.EVEN:
                return digit % 2 == 0
            case Claim.BELOW:
                return digit < self.named[0]
            case Claim.ABOVE:
                return digit > self.named[0]

    def score(self, truth: Truth) -> int:
        """The rubric's score, 0 to 100."""
        if not self.holds(truth):
            return self.category.wrong
        if self.category.claim is Claim.COLOURED and self.dark_on_light != truth.dark_on_light:
            return self.category.half_right
        return self.category.right

    def label(self, truth: Truth) -> str:
        """One word for the reasons."""
        if not self.holds(truth):
            return "Wrong"
        if self.score(truth) == self.category.half_right and self.category.half_right:
            return "Wrong color"
        return self.category.label


def any_category(rng: np.random.Generator, wording: Wording = Wording.TRAINED) -> Category:
    wide = wording is Wording.WIDE
    categories, shares = (_WIDE_CATEGORIES, _WIDE_SHARES) if wide else (CATEGORIES, _SHARES)
    return categories[rng.choice(len(categories), p=shares / shares.sum())]


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
    if right is None:
        right = bool(rng.random() < 0.5)
    named = _named(category, truth.digit, right, rng)
    dark = bool(rng.random() < 0.5)
    if category.claim is Claim.COLOURED and right and rng.random() < 0.7:
        dark = truth.dark_on_light
    return _write(category, named, dark, question, wording, int(rng.integers(2**62)))


def renamed(response: Response, named: tuple[int, ...]) -> Response:
    """The same wording, naming other digits."""
    return _write(
        response.category,
        named,
        response.dark_on_light,
        response.question,
        response.wording,
        response.seed,
    )


def _write(
    category: Category,
    named: tuple[int, ...],
    dark_on_light: bool,
    question: str,
    wording: Wording,
    seed: int,
) -> Response:
    rng = np.random.default_rng(seed)
    template = _pick(_templates(category, wording), rng)
    if wording is Wording.WIDE and category.name not in _FIXED and rng.random() < 0.2:
        template = _pick(_SURROUNDINGS, rng).replace("*", template)
    text = _Writer(named, dark_on_light, question, wording, rng).write(template)
    return Response(text, category, named, dark_on_light, question, wording, seed)


_SURROUNDINGS = ("{c}, *", "{c} {c}. *", "{c}: *", "* {c}.", "* {c} {c}.", "{c} *", "{c} {c}, *")
_FIXED = frozenset({"echo", "nonsense", "empty", "terse", "off topic"})


def _templates(category: Category, wording: Wording) -> tuple[str, ...]:
    match wording:
        case Wording.TRAINED:
            return category.templates
        case Wording.HELD_OUT:
            return category.held_out
        case Wording.WIDE:
            return category.templates + EXTRA.get(category.name, ())


def other_digit(rng: np.random.Generator, *taken: int) -> int:
    free = [d for d in range(10) if d not in taken]
    return int(free[rng.integers(len(free))])


def _named(
    category: Category, digit: int, right: bool, rng: np.random.Generator
) -> tuple[int, ...]:
    claim, count = category.claim, category.num_digits
    if count == 0:
        return ()
    if claim in (Claim.BELOW, Claim.ABOVE):
        return (int(rng.integers(1, 9)),)
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


class _Writer:
    """Fills one template."""

    def __init__(
        self,
        named: tuple[int, ...],
        dark: bool,
        question: str,
        wording: Wording,
        rng: np.random.Generator,
    ) -> None:
        self._named = named
        self._dark = dark
        self._question = question
        self._held_out = wording is Wording.HELD_OUT
        self._rng = rng
        self._numerals = bool(rng.random() < 0.4)

    def write(self, template: str) -> str:
        text = _SLOT.sub(lambda slot: self._fill(slot[1]), template)
        if "{question}" in template or "{nonsense}" in template or not text.strip():
            return text
        text = _SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), text)
        text = _I.sub("I", text)
        return self._style(text)

    def _style(self, text: str) -> str:
        """Case and punctuation as people vary them."""
        draw = self._rng.random()
        if draw < 0.10:
            text = text.lower()
        elif draw < 0.115:
            text = text.upper()
        draw = self._rng.random()
        if text.endswith(".") and draw < 0.25:
            text = text[:-1] + ("!" if draw < 0.04 else "")
        return text

    def _fill(self, slot: str) -> str:
        rng = self._rng
        if slot in ("0", "1", "2"):
            return self._digit(int(slot))
        if slot in ("a0", "a1", "a2"):
            index = int(slot[1])
            article = "an" if self._named[index] == 8 else "a"
            return f"{article} {self._digit(index)}"
        match slot:
            case "ink":
                return _pick(INKS[self._dark], rng)
            case "paper":
                return _pick(PAPERS[self._dark], rng)
            case "why0":
                return _pick(REASONS[self._named[0]], rng)
            case "question":
                return self._question
            case "off_topic":
                return _pick(HELD_OUT_OFF_TOPIC if self._held_out else OFF_TOPIC, rng)
            case "refusal":
                return _pick(HELD_OUT_REFUSALS if self._held_out else REFUSALS, rng)
            case "nonsense":
                return self._nonsense()
            case "c":
                return " ".join(_pick(FILLERS, rng) for _ in range(rng.integers(1, 4)))
        phrases = HELD_OUT_PHRASES.get(slot) or EXTRA_PHRASES.get(slot) or PHRASES[slot]
        return _SLOT.sub(lambda inner: self._fill(inner[1]), _pick(phrases, rng))

    def _digit(self, index: int) -> str:
        digit = self._named[index]
        return str(digit) if self._numerals else WORDS[digit]

    def _nonsense(self) -> str:
        rng = self._rng
        if rng.random() < 0.3:
            letters = [chr(c) for c in rng.integers(33, 127, rng.integers(3, 14))]
            return "".join(c for c in letters if not c.isdigit())
        words = [
            "".join(_pick(SYLLABLES, rng) for _ in range(rng.integers(1, 4)))
            for _ in range(rng.integers(1, 6))
        ]
        return " ".join(words)


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
