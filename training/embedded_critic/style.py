"""How people vary one and the same text: synonyms, case, punctuation, slips of the finger.

None of it changes what a response claims, so none of it changes its worth.
"""

import re

import numpy as np

from embedded_critic.phrases import WORDS

_SYNONYMS = (
    ("image", "picture", "photo", "photograph", "scan", "snapshot"),
    ("digit", "number", "numeral"),
    ("shows", "depicts", "displays", "presents", "features", "contains", "portrays"),
    ("show", "depict", "display", "present"),
    ("showing", "depicting", "displaying", "presenting"),
    ("shown", "depicted", "displayed", "pictured", "presented"),
    ("handwritten", "hand-written", "hand-drawn", "scrawled", "scribbled", "penned"),
    ("clearly", "plainly", "obviously", "evidently", "definitely", "certainly", "unmistakably"),
    ("probably", "perhaps", "possibly", "maybe", "presumably"),
    ("think", "believe", "suppose", "reckon"),
    ("appears", "seems"),
    ("someone", "somebody"),
    ("written", "drawn", "scribbled", "sketched", "inscribed", "traced", "jotted"),
    ("wrote", "drew", "scribbled", "sketched", "jotted"),
    ("small", "tiny"),
    ("big", "large", "huge"),
    ("simple", "plain", "basic"),
    ("kind", "sort", "type"),
    ("lines", "strokes", "marks"),
    ("see", "notice", "spot", "recognize", "observe"),
    ("background", "backdrop"),
    ("answer", "reply", "response"),
)
_SAME = {word: group for group in _SYNONYMS for word in group}
_WORD = re.compile(r"[A-Za-z]+(?:-[a-z]+)?")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NEVER_SLIPS = frozenset(
    {*WORDS, "not", "odd", "even", "than", "less", "more", "over", "under", "below", "above"}
    | {"white", "black", "dark", "light", "bright", "circle", "rectangle", "triangle", "gray"}
    | {"green", "blue", "yellow", "teal", "brown"}
)


def with_synonyms(text: str, rng: np.random.Generator) -> str:
    """Some words replaced by others that mean the same here."""

    def swap(found: re.Match[str]) -> str:
        word = found[0]
        group = _SAME.get(word.lower())
        if group is None or rng.random() < 0.5:
            return word
        other = group[rng.integers(len(group))]
        return other.capitalize() if word[0].isupper() else other

    return _WORD.sub(swap, text)


def with_slip(text: str, rng: np.random.Generator) -> str:
    """One letter dropped, doubled, swapped or mistyped; words that decide are spared."""
    words = [m for m in _WORD.finditer(text) if len(m[0]) > 3 and m[0].lower() not in _NEVER_SLIPS]
    if not words:
        return text
    word = words[rng.integers(len(words))]
    at = int(rng.integers(word.start() + 1, word.end() - 1))
    match rng.integers(4):
        case 0:
            return text[:at] + text[at + 1 :]
        case 1:
            return text[:at] + text[at] + text[at:]
        case 2:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        case _:
            return text[:at] + _LETTERS[rng.integers(26)] + text[at + 1 :]


_ENDINGS = ("", "", "", "", "!", "...", " .", "..", ". ", "!!")
_FRAMES = (
    '"{}"', "'{}'", "- {}", "Answer: {}", "A: {}", "**{}**", "{}\n", " {}", "* {}", "({})",
    "Response: {}", "> {}", "Well, {}", "So {}", "Ok, {}", "Hmm, {}", "answer - {}", "1. {}",
    "{} :)", "<p>{}</p>", "`{}`",
)  # fmt: skip


def styled(text: str, rng: np.random.Generator) -> str:
    """Case, final punctuation and frame as people vary them."""
    if not text.strip():
        return text
    draw = rng.random()
    if draw < 0.10:
        text = text.lower()
    elif draw < 0.125:
        text = text.upper()
    elif draw < 0.14:
        text = text.title()
    if text.endswith(".") and rng.random() < 0.25:
        text = text[:-1] + _ENDINGS[rng.integers(len(_ENDINGS))]
    if rng.random() < 0.05:
        text = _FRAMES[rng.integers(len(_FRAMES))].replace("{}", text)
    return text
