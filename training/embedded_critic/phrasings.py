"""Phrasings as data: what different writers say about a picture of a digit, by category.

`phrasings/training` is trained on. `phrasings/held_out` was written before, by writers who had seen
nothing but `phrasings/BRIEF.md`, and is for measuring only; so is `phrasings/development`, which
may be looked at. What of the training set equals a held-out text is dropped: templates here, and
in `grammar` whatever the recombined templates happen to render to.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from embedded_critic.phrases import WORDS
from embedded_critic.rubric import BY_NAME
from embedded_critic.slots import slots_cased

ROOT = Path(__file__).parent / "phrasings"
_SLOTS = {
    "digit": "0", "a_digit": "a0", "digit2": "1", "a_digit2": "a1", "digit3": "2",
    "a_digit3": "a2", "ink": "ink", "paper": "paper", "why": "why",
}  # fmt: skip
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Templates and reasons."""

    templates: dict[str, tuple[str, ...]]
    """By category. Slots: {0} {1} {2} digits, {a0} {a1} {a2} with their articles, {ink} {paper},
    {why}."""
    true_reasons: tuple[tuple[str, ...], ...]
    """By digit: what can be said of its strokes."""
    false_reasons: tuple[tuple[str, ...], ...]


def read(files: Iterable[Path]) -> Phrasings:
    """The union of several writers' files. Raises ValueError at an unknown category or slot."""
    templates: dict[str, list[str]] = {name: [] for name in BY_NAME}
    true: list[list[str]] = [[] for _ in range(10)]
    false: list[list[str]] = [[] for _ in range(10)]
    for file in files:
        written = json.loads(file.read_text(encoding="utf-8"))
        for name, texts in written["categories"].items():
            if name not in templates:
                raise ValueError(f"{file.name}: unknown category {name!r}")
            templates[name] += [_with_slots(text, name, file) for text in texts]
        for digit in range(10):
            true[digit] += written["true_reasons"][str(digit)]
            false[digit] += written["false_reasons"][str(digit)]
    return Phrasings(
        {name: tuple(dict.fromkeys(texts)) for name, texts in templates.items()},
        tuple(map(tuple, true)),
        tuple(map(tuple, false)),
    )


def _with_slots(text: str, name: str, file: Path) -> str:
    allowed = _allowed(name)
    for slot in _SLOT.findall(text):
        if slot not in allowed:
            raise ValueError(f"{file.name}: {name} has no slot {slot!r}: {text!r}")
    return slots_cased(_SLOT.sub(lambda m: "{" + _SLOTS[m[1]] + "}", text))


def _allowed(name: str) -> set[str]:
    count = BY_NAME[name].num_digits
    digits = [slot for i in ("", "2", "3")[:count] for slot in (f"digit{i}", f"a_digit{i}")]
    extra = {"detailed": ("ink", "paper"), "reasoned": ("why",)}.get(name, ())
    return {*digits, *extra}


@cache
def held_out() -> Phrasings:
    return read(sorted((ROOT / "held_out").glob("*.json")))


@cache
def development() -> Phrasings:
    return read(sorted((ROOT / "development").glob("*.json")))


@cache
def training() -> Phrasings:
    """Without what is held out, however it is spelled."""
    everything = read(sorted((ROOT / "training").glob("*.json")))
    return Phrasings(
        {
            name: tuple(t for t in texts if not is_kept_back(name, t))
            for name, texts in everything.templates.items()
        },
        without_kept_back(everything.true_reasons),
        without_kept_back(everything.false_reasons),
    )


def is_kept_back(name: str, template: str) -> bool:
    """Whether a template of the category, or what it renders to, is held out."""
    return name not in _COMMON and key(template) in _kept_back()


def without_kept_back(reasons: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """By digit, the reasons that are not held out."""
    return tuple(tuple(r for r in some if key(r) not in _kept_back()) for some in reasons)


_COMMON = frozenset({"terse", "empty"})
"""A digit and a sign, or a sign: there are not enough to go round."""


@cache
def _kept_back() -> frozenset[str]:
    keys: set[str] = set()
    for part in (held_out(), development()):
        for texts in (*part.templates.values(), *part.true_reasons, *part.false_reasons):
            keys.update(map(key, texts))
    return frozenset(keys)


def key(template: str) -> str:
    """Equal for templates that differ in case, punctuation, spaces, articles of digits or the order
    of the colours only."""
    plain = template.lower().replace("{^", "{").replace("{a", "{")
    plain = re.sub(r"\ban? \{", "{", plain)
    plain = re.sub(r"\{ink\}|\{paper\}|\b(white|light|bright|black|dark)\b", "{c}", plain)
    return re.sub(r"[^a-z0-9{}]+", " ", plain).strip() or template


def masked(text: str, digits: tuple[int, ...]) -> str:
    """A rendered text as a template again: the digits it names are slots."""
    for index, digit in enumerate(digits):
        text = re.sub(rf"\b({digit}|{WORDS[digit]})\b", f"{{{index}}}", text, flags=re.IGNORECASE)
    return text
