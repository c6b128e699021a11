"""Fills the slots of one template."""

import re
from dataclasses import dataclass

import numpy as np

from embedded_critic.phrases import FILLERS, INKS, PAPERS, PHRASES, SYLLABLES, WORDS
from embedded_critic.phrasings import Phrasings
from embedded_critic.slots import SLOT


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a response says of the picture."""

    digits: tuple[int, ...]
    dark_on_light: bool
    reason_fits: bool
    """Whether the reason given is one for the digit named."""


def write(
    template: str, claimed: Claimed, question: str, source: Phrasings, rng: np.random.Generator
) -> str:
    """The text of a template."""
    side_by_side = "}{" in template  # "47" for four and seven
    return _Writer(claimed, question, source, rng, side_by_side).write(template)


class _Writer:
    def __init__(
        self,
        claimed: Claimed,
        question: str,
        source: Phrasings,
        rng: np.random.Generator,
        numerals: bool,
    ) -> None:
        self._claimed = claimed
        self._question = question
        self._source = source
        self._rng = rng
        self._numerals = bool(rng.random() < 0.4) or numerals

    def write(self, template: str) -> str:
        return SLOT.sub(self._replace, template)

    def _replace(self, slot: re.Match[str]) -> str:
        text = self._fill(slot[2])
        return text[:1].upper() + text[1:] if slot[1] else text

    def _fill(self, slot: str) -> str:
        rng, claimed = self._rng, self._claimed
        if slot in ("0", "1", "2"):
            return self._digit(int(slot))
        if slot in ("a0", "a1", "a2"):
            index = int(slot[1])
            article = "an" if claimed.digits[index] == 8 else "a"
            return f"{article} {self._digit(index)}"
        match slot:
            case "ink":
                return _pick(INKS[claimed.dark_on_light], rng)
            case "paper":
                return _pick(PAPERS[claimed.dark_on_light], rng)
            case "why":
                source = self._source
                reasons = source.true_reasons if claimed.reason_fits else source.false_reasons
                return _pick(reasons[claimed.digits[0]], rng)
            case "question":
                return self._question
            case "nonsense":
                return _nonsense(rng)
            case "c":
                return " ".join(_pick(FILLERS, rng) for _ in range(rng.integers(1, 4)))
        return self.write(_pick(PHRASES[slot], rng))

    def _digit(self, index: int) -> str:
        digit = self._claimed.digits[index]
        return str(digit) if self._numerals else WORDS[digit]


def _nonsense(rng: np.random.Generator) -> str:
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
