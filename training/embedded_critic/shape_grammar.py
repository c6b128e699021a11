"""Answers with known worth to questions about coloured shapes.

The rubric is that of the digits, for the categories that both have. What answers another question
than the one asked, or speaks of a digit, is worth no more than a wrong answer.
"""

import json
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from embedded_critic.grammar import any_category, respond
from embedded_critic.phrasings import ROOT, key
from embedded_critic.prompts import Judged
from embedded_critic.rubric import BY_NAME, Category, Truth
from embedded_critic.shapes import COLOURS, SHAPES, YES_NO, ShapeTruth
from embedded_critic.slots import SLOT
from embedded_critic.style import styled, with_slip
from embedded_critic.texts import Wording

_KINDS = {**dict.fromkeys(SHAPES, "shape"), **dict.fromkeys(COLOURS, "colour")}
_CHOICES = {"shape": SHAPES, "colour": COLOURS, "yes_no": YES_NO}
_SHARES = {
    "sentence": 2.0, "short": 1.6, "terse": 1.6, "hedged": 1.0, "hedged_two": 0.7,
    "corrected": 0.7, "contradiction": 0.5,
}  # fmt: skip
PLAIN = ("sentence", "short", "terse", "hedged")
"""Categories that every kind of question has and that give one word as the answer."""
_SPEAKS_OF_NEITHER = ("vague", "letter", "object", "off_topic", "refusal", "nonsense", "empty")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question about a shape, and what it claims."""

    text: str
    category: Category
    claimed: tuple[str, ...]
    """Words it gives as the answer."""
    wording: Wording
    seed: int

    def score(self, answer: str) -> int:
        """The rubric's score, 0 to 100, where `answer` is right."""
        category = self.category
        if category.num_digits == 0:
            return category.right
        right = (
            self.claimed[-1] == answer if category.name == "corrected" else answer in self.claimed
        )
        return category.right if right else category.wrong

    def judged(self, answer: str) -> Judged:
        score = self.score(answer)
        right = score == self.category.right
        return Judged(self.text, score, self.category.label if right else "Wrong")


def kind_of(answer: str) -> str:
    return _KINDS.get(answer, "yes_no")


def answer_with(
    right: bool,
    asked: str,
    rng: np.random.Generator,
    *,
    wording: Wording = Wording.TRAINED,
    category: Category | None = None,
) -> Answer:
    """Answers a question whose right answer is `asked`, with words of its kind."""
    kind = kind_of(asked)
    if category is None:
        names = [
            n for n in _SHARES if n in _templates(wording)[kind if kind != "yes_no" else "yes"]
        ]
        shares = np.array([_SHARES[n] for n in names])
        category = BY_NAME[names[rng.choice(len(names), p=shares / shares.sum())]]
    others = [w for w in _CHOICES[kind] if w != asked]
    claimed = [others[i] for i in rng.permutation(len(others))[: category.num_digits]]
    if right:
        last = category.name == "corrected"
        claimed[-1 if last else int(rng.integers(len(claimed)))] = asked
    return _write(category, tuple(claimed), wording, int(rng.integers(2**62)))


def other_answer(
    truth: ShapeTruth,
    question: str,
    asked: str,
    rng: np.random.Generator,
    *,
    wording: Wording = Wording.TRAINED,
) -> Answer:
    """What does not answer the question: true of the picture, about a digit, or about nothing."""
    draw = rng.random()
    if draw < 0.45:
        return _beside(truth, question, asked, rng, wording=wording)
    if draw < 0.6:
        said_of_digit = respond(
            any_category(rng, wording), Truth(0, False, coloured=True), "", rng, wording=wording,
            right=False,
        )  # fmt: skip
        if said_of_digit.category.names_digit:
            category = said_of_digit.category
            claimed = ("",) * category.num_digits
            return Answer(said_of_digit.text, category, claimed, wording, 0)
    name = _SPEAKS_OF_NEITHER[rng.integers(len(_SPEAKS_OF_NEITHER))]
    response = respond(BY_NAME[name], Truth(0, False), "", rng, wording=wording)
    return Answer(response.text, response.category, (), wording, 0)


def shape_answer(
    truth: ShapeTruth,
    question: str,
    asked: str,
    rng: np.random.Generator,
    *,
    names: tuple[str, ...] = (),
) -> Answer:
    """Any answer: right, wrong, or to another question; of the categories named, if any are."""
    category = BY_NAME[names[rng.integers(len(names))]] if names else None
    if rng.random() < 0.25:
        if category:
            return _beside(truth, question, asked, rng, category=category)
        return other_answer(truth, question, asked, rng)
    return answer_with(bool(rng.random() < 0.5), asked, rng, category=category)


def shape_pair(
    truth: ShapeTruth,
    question: str,
    asked: str,
    rng: np.random.Generator,
    *,
    names: tuple[str, ...] = (),
) -> tuple[Answer, Answer]:
    """Two answers in random order; in most pairs the word, or the question, alone decides."""
    draw = rng.random()
    if draw < 0.35:
        pair = same_wording(asked, rng)
    elif draw < 0.60:  # both are true of the picture, and one of them answers
        category = BY_NAME[PLAIN[rng.integers(len(PLAIN))]]
        pair = (
            answer_with(True, asked, rng, category=category),
            _beside(truth, question, asked, rng, category=category),
        )
    elif draw < 0.75:
        pair = answer_with(True, asked, rng), other_answer(truth, question, asked, rng)
    else:
        one, other = (shape_answer(truth, question, asked, rng, names=names) for _ in range(2))
        pair = one, other
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def same_wording(
    asked: str, rng: np.random.Generator, *, wording: Wording = Wording.TRAINED
) -> tuple[Answer, Answer]:
    """The right answer first; the other has another word in the same place.

    Yes and no have no words in common: there the other is of the same category.
    """
    category = BY_NAME[PLAIN[rng.integers(len(PLAIN))]]
    right = answer_with(True, asked, rng, wording=wording, category=category)
    wrong = answer_with(False, asked, rng, wording=wording, category=category)
    return right, wrong if asked in YES_NO else claiming(right, wrong.claimed)


def claiming(answer: Answer, claimed: tuple[str, ...]) -> Answer:
    """The same wording with other words, of a kind."""
    return _write(answer.category, claimed, answer.wording, answer.seed)


def _beside(
    truth: ShapeTruth,
    question: str,
    asked: str,
    rng: np.random.Generator,
    *,
    wording: Wording = Wording.TRAINED,
    category: Category | None = None,
) -> Answer:
    """True of the picture, and no answer to the question."""
    word = _aside(truth, question, asked)
    said = answer_with(True, word, rng, wording=wording, category=category)
    return replace(said, claimed=("",) * len(said.claimed))


def _aside(truth: ShapeTruth, question: str, asked: str) -> str:
    """What the question does not ask about: a colour does not say whether there is a circle."""
    asks_shape = kind_of(asked) == "shape" or any(word in question for word in SHAPES)
    return truth.colour if asks_shape and kind_of(asked) != "colour" else truth.shape


def _write(category: Category, claimed: tuple[str, ...], wording: Wording, seed: int) -> Answer:
    rng = np.random.default_rng(seed)
    kind = claimed[0] if claimed[0] in YES_NO else kind_of(claimed[0])
    choices = _templates(wording)[kind][category.name]
    template = choices[rng.integers(len(choices))]
    text = SLOT.sub(lambda m: _fill(m[2], claimed), template)
    if wording is Wording.TRAINED:
        if rng.random() < 0.06:
            text = with_slip(text, rng)
        text = styled(text, rng)
    return Answer(text, category, claimed, wording, seed)


def _fill(slot: str, claimed: tuple[str, ...]) -> str:
    word = claimed[1 if slot.endswith("2") else 0]
    return f"a {word}" if slot.startswith("a_") else word


@cache
def _templates(wording: Wording) -> dict[str, dict[str, list[str]]]:
    folders = {Wording.TRAINED: "training", Wording.HELD_OUT: "held_out"}
    kept_back: set[str] = set()
    if wording is Wording.TRAINED:
        held_out = _templates(Wording.HELD_OUT)
        kept_back = {
            key(text)
            for categories in held_out.values()
            for name, texts in categories.items()
            if name != "terse"
            for text in texts
        }
    merged: dict[str, dict[str, list[str]]] = {}
    for file in sorted((ROOT / "shapes" / folders[wording]).glob("*.json")):
        for kind, categories in json.loads(file.read_text(encoding="utf-8")).items():
            for name, texts in categories.items():
                chosen = [text for text in texts if key(text) not in kept_back]
                merged.setdefault(kind, {}).setdefault(name, []).extend(chosen)
    return merged
