"""What the critic is asked during training: rows of captions, scores and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedded_critic import phrasings, prompts
from embedded_critic.grammar import (
    NAMING,
    Response,
    any_category,
    opposite,
    other_digit,
    renamed,
    respond,
    single_category,
)
from embedded_critic.items import (
    Exercise,
    caption_exercise,
    comparing_exercise,
    pairwise_item,
    pointwise_item,
    scoring_exercise,
)
from embedded_critic.phrases import WORDS
from embedded_critic.rubric import BY_NAME, TIE_BELOW, Category, Truth
from embedded_critic.shape_grammar import PLAIN, shape_answer, shape_pair
from embedded_critic.shapes import COLOURS, SHAPES, ShapeTruth
from embedded_critic.texts import Wording


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the curriculum."""

    until: float
    """Share of all steps at which it ends."""
    captions: float
    pairwise: float
    """Shares of rows; the others are pointwise."""
    full_prompt: float
    kind: Literal["terse", "single", "any"]
    """Of responses: the digit alone, those that name one digit, all."""
    reasons: float = 1.0
    """Share of items whose answers go on after the verdict."""


CURRICULUM = (
    Phase(0.03, captions=1.0, pairwise=0.0, full_prompt=0.0, kind="terse"),
    Phase(0.06, captions=0.2, pairwise=0.0, full_prompt=0.0, kind="terse"),
    Phase(0.11, captions=0.03, pairwise=0.0, full_prompt=0.0, kind="single"),
    Phase(0.20, captions=0.03, pairwise=0.4, full_prompt=0.0, kind="single", reasons=0.5),
    Phase(0.30, captions=0.03, pairwise=0.5, full_prompt=0.3, kind="any", reasons=0.3),
    Phase(1.00, captions=0.03, pairwise=0.55, full_prompt=1.0, kind="any", reasons=0.15),
)
ITEMS_PER_ROW = 14
"""Drawn; those that do not fit the lanes are dropped."""


def phase_at(share: float) -> Phase:
    return next(p for p in CURRICULUM if share < p.until or p.until == 1.0)


def draw_exercise(truth: Truth | ShapeTruth, phase: Phase, rng: np.random.Generator) -> Exercise:
    if isinstance(truth, ShapeTruth):
        return _about_shape(truth, phase, rng)
    draw = rng.random()
    question = _question(rng)
    if draw < phase.captions:
        forms = rng.choice(len(prompts.CAPTION_FORMS), 3, replace=False)
        captions = [prompts.caption(truth, prompts.CAPTION_FORMS[f]) for f in forms]
        return caption_exercise(question, captions)
    full, shown = bool(rng.random() < phase.full_prompt), prompts.shown(truth)
    if draw < phase.captions + phase.pairwise:
        pairs = [
            (a.judged(truth), b.judged(truth))
            for a, b in (_pair(truth, question, phase, rng) for _ in range(ITEMS_PER_ROW))
        ]
        return comparing_exercise(question, pairs, shown, rng, full=full, reasons=phase.reasons)
    responses = [respond(_category(phase, rng), truth, question, rng) for _ in range(ITEMS_PER_ROW)]
    twins = [opposite(r, truth, rng) for r in responses]
    responses += [twin for twin in twins if twin][: ITEMS_PER_ROW // 2]
    judged = [r.judged(truth) for r in responses]
    return scoring_exercise(question, judged, shown, rng, full=full, reasons=phase.reasons)


def _about_shape(truth: ShapeTruth, phase: Phase, rng: np.random.Generator) -> Exercise:
    draw = rng.random()
    question, asked = truth.questions[rng.integers(len(truth.questions))]
    if draw < phase.captions:
        captions = [truth.shown, truth.colour, truth.shape]
        return caption_exercise("What does the image show?", captions)
    full = bool(rng.random() < phase.full_prompt)
    names = {"terse": ("terse",), "single": PLAIN, "any": ()}[phase.kind]
    if draw < phase.captions + phase.pairwise:
        pairs = [shape_pair(truth, question, asked, rng, names=names) for _ in range(ITEMS_PER_ROW)]
        judged_pairs = [(a.judged(asked), b.judged(asked)) for a, b in pairs]
        return comparing_exercise(
            question, judged_pairs, truth.shown, rng, full=full, reasons=phase.reasons
        )
    answers = [shape_answer(truth, question, asked, rng, names=names) for _ in range(ITEMS_PER_ROW)]
    judged = [answer.judged(asked) for answer in answers]
    return scoring_exercise(question, judged, truth.shown, rng, full=full, reasons=phase.reasons)


def _question(rng: np.random.Generator) -> str:
    """One of ours, or one that somebody came up with as an echo of ours."""
    choices: tuple[str, ...] = prompts.QUESTIONS
    if rng.random() < 0.3:
        choices = phrasings.training().templates["echo"]
    return choices[rng.integers(len(choices))]


def _category(phase: Phase, rng: np.random.Generator) -> Category:
    match phase.kind:
        case "terse":
            return BY_NAME["terse"]
        case "single":
            return single_category(rng)
        case "any":
            return any_category(rng)


def _pair(
    truth: Truth, question: str, phase: Phase, rng: np.random.Generator
) -> tuple[Response, Response]:
    """Two responses in random order; in most pairs one claim decides."""

    def draw_response(category: Category, right: bool | None = None) -> Response:
        return respond(category, truth, question, rng, right=right)

    draw = rng.random()
    if draw < 0.13:
        pair = same_wording_pair(truth, question, rng)
    elif draw < 0.18:
        category = single_category(rng)
        pair = draw_response(category, right=True), draw_response(category, right=False)
    elif draw < 0.23:
        pair = draw_response(_naming(rng), right=True), draw_response(_naming(rng), right=False)
    elif draw < 0.28:  # both right, or both wrong
        agreed = bool(rng.random() < 0.4)
        category = _category(phase, rng)
        pair = draw_response(category, right=agreed), draw_response(category, right=agreed)
    elif draw < 0.30:
        same = draw_response(_category(phase, rng))
        pair = same, same
    elif draw < 0.34:  # an attack on behalf of the wrong digit
        pair = draw_response(_naming(rng), right=True), draw_response(_FAKE_CLAIM, right=False)
    elif draw < 0.42:
        one = draw_response(_category(phase, rng))
        other = opposite(one, truth, rng) or draw_response(_category(phase, rng))
        pair = one, other
    elif draw < 0.47:  # just a tie, or just none
        one = draw_response(_category(phase, rng))
        others = [draw_response(_category(phase, rng)) for _ in range(4)]
        pair = one, min(others, key=lambda other: _from_boundary(one, other, truth))
    else:  # the hardest: what decides may be anything
        pair = draw_response(_category(phase, rng)), draw_response(_category(phase, rng))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _from_boundary(one: Response, other: Response, truth: Truth) -> float:
    """How far two responses' difference is from where ties end; scores are multiples of 5."""
    return abs(abs(one.score(truth) - other.score(truth)) - (TIE_BELOW - 2.5))


_FAKE_CLAIM = BY_NAME["fake_claim"]


def _naming(rng: np.random.Generator) -> Category:
    return NAMING[rng.integers(len(NAMING))]


def same_wording_pair(
    truth: Truth,
    question: str,
    rng: np.random.Generator,
    *,
    wording: Wording = Wording.TRAINED,
) -> tuple[Response, Response]:
    """The right response first; the other names another digit in the same words."""
    category = single_category(rng, wording)
    right = respond(category, truth, question, rng, right=True, wording=wording)
    return right, renamed(right, (other_digit(rng, truth.digit),))


def corpus(count: int, rng: np.random.Generator, shapes: Sequence[ShapeTruth]) -> list[str]:
    """Texts for training the tokenizer."""
    # Every word that the projector aims at is one token wherever it stands.
    known = (*WORDS, *SHAPES, *COLOURS, "odd", "even")
    words = [form for word in known for form in (word, word.capitalize())]
    texts = [text for word in words for text in (word, f": {word}")] * (count // 40)
    for _ in range(count):
        truth = Truth(int(rng.integers(10)), bool(rng.random() < 0.5))
        question = _question(rng)
        response = respond(any_category(rng), truth, question, rng)
        texts.append(f"{question}\n{response.text}")
        if rng.random() < 0.15:
            about = shapes[int(rng.integers(len(shapes)))]
            asked, answer = about.questions[rng.integers(len(about.questions))]
            texts.append(f"{asked}\n{shape_answer(about, asked, answer, rng).text}")
        # The long preamble once in a while: often enough that its words become tokens.
        if rng.random() < 0.1:
            other = respond(any_category(rng), truth, question, rng).judged(truth)
            judged, shown = response.judged(truth), prompts.shown(truth)
            for item in (
                pointwise_item(question, judged, shown),
                pairwise_item(question, judged, other, shown),
            ):
                texts += [f"user\n\n{item.user}", f"assistant\n{item.answer}"]
            texts.append(f"system\n{prompts.SYSTEM}")
    return texts
