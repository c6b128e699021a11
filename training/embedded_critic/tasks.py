"""What the critic is asked during training: rows of captions, scores and comparisons."""

from dataclasses import dataclass

import numpy as np

from embedded_critic import prompts
from embedded_critic.grammar import (
    NAMING,
    Response,
    Truth,
    Wording,
    any_category,
    other_digit,
    renamed,
    respond,
)
from embedded_critic.packing import Item
from embedded_critic.phrases import WORDS
from embedded_critic.templates import Category
from embedded_critic.widening import UNFAMILIAR

_SINGLE = tuple(c for c in NAMING if c.num_digits == 1)
_WIDE_SINGLE = (*_SINGLE, UNFAMILIAR)


@dataclass(frozen=True, slots=True)
class Exercise:
    """Items about one picture and one question, and another of their kind that differs early."""

    items: list[Item]
    pilot: Item


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the curriculum."""

    until: float
    """Share of all steps at which it ends."""
    captions: float
    pairwise: float
    """Shares of rows; the others are pointwise."""
    full_prompt: float
    simple: bool
    """Only responses that name one digit."""
    wording: Wording = Wording.TRAINED


CURRICULUM = (
    Phase(0.03, captions=1.0, pairwise=0.0, full_prompt=0.0, simple=True),
    Phase(0.10, captions=0.0, pairwise=0.0, full_prompt=0.0, simple=True),
    Phase(0.20, captions=0.0, pairwise=0.4, full_prompt=0.0, simple=True),
    Phase(0.32, captions=0.0, pairwise=0.5, full_prompt=0.3, simple=False),
    Phase(1.00, captions=0.0, pairwise=0.6, full_prompt=1.0, simple=False),
)
WIDENING = Phase(1.0, 0.0, pairwise=0.55, full_prompt=1.0, simple=False, wording=Wording.WIDE)
"""What follows the curriculum, with a learning rate of its own."""
ITEMS_PER_ROW = 12
"""Drawn; those that do not fit the lanes are dropped."""


def phase_at(share: float) -> Phase:
    return next(p for p in CURRICULUM if share < p.until or p.until == 1.0)


def pointwise_item(
    question: str, response: Response, truth: Truth, *, template: str = prompts.POINTWISE
) -> Item:
    user, ends = _fill(template, prompt=question, candidate=response.text)
    answer = prompts.score_answer(response, truth)
    start = len(prompts.SCORE_OPENING)
    return Item(
        user,
        answer,
        (start, answer.index(".") + 1),  # with the full stop, which tells 8 from 85
        (ends["candidate"],),
        (response.score(truth) / 100,),
    )


def pairwise_item(
    question: str,
    first: Response,
    second: Response,
    truth: Truth,
    *,
    template: str = prompts.PAIRWISE,
) -> Item:
    user, ends = _fill(template, prompt=question, first=first.text, second=second.text)
    return Item(
        user,
        prompts.verdict_answer(first, second, truth),
        (len("The"), len("The first")),
        (ends["first"], ends["second"]),
        (first.score(truth) / 100, second.score(truth) / 100),
    )


def draw_exercise(truth: Truth, phase: Phase, rng: np.random.Generator) -> Exercise:
    draw = rng.random()
    question = prompts.QUESTIONS[rng.integers(len(prompts.QUESTIONS))]
    if draw < phase.captions:
        return _captions(truth, question, rng)
    full = rng.random() < phase.full_prompt
    if draw < phase.captions + phase.pairwise:
        template = prompts.PAIRWISE if full else prompts.SHORT_PAIRWISE
        pairs = [_pair(truth, question, phase, rng) for _ in range(ITEMS_PER_ROW)]
        pairs += [(b, a) for a, b in pairs[: ITEMS_PER_ROW // 4]]
        items = [pairwise_item(question, a, b, truth, template=template) for a, b in pairs]
        pilot, _ = _fill(template, prompt=question, first="~", second="~")
        return Exercise(_shuffled(items, rng), Item(pilot, "", (0, 0)))
    template = prompts.POINTWISE if full else prompts.SHORT_POINTWISE
    responses = [
        respond(_category(phase, rng), truth, question, rng, wording=phase.wording)
        for _ in range(ITEMS_PER_ROW)
    ]
    twins = [r for r in responses if r.category in _WIDE_SINGLE][:5]
    responses += [
        renamed(r, (other_digit(rng, truth.digit) if r.holds(truth) else truth.digit,))
        for r in twins
    ]
    items = [pointwise_item(question, r, truth, template=template) for r in responses]
    pilot, _ = _fill(template, prompt=question, candidate="~")
    return Exercise(_shuffled(items, rng), Item(pilot, "", (0, 0)))


def _shuffled(items: list[Item], rng: np.random.Generator) -> list[Item]:
    return [items[i] for i in rng.permutation(len(items))]


def _captions(truth: Truth, question: str, rng: np.random.Generator) -> Exercise:
    forms = rng.choice(len(prompts.CAPTION_FORMS), 3, replace=False)
    texts = [prompts.caption(truth, prompts.CAPTION_FORMS[f]) for f in forms]
    items = [Item(question, text, (0, len(text))) for text in texts]
    return Exercise(items, items[0])


def _category(phase: Phase, rng: np.random.Generator) -> Category:
    return _single(phase.wording, rng) if phase.simple else any_category(rng, phase.wording)


def _single(wording: Wording, rng: np.random.Generator) -> Category:
    choices = _WIDE_SINGLE if wording is Wording.WIDE else _SINGLE
    return choices[rng.integers(len(choices))]


def _pair(
    truth: Truth, question: str, phase: Phase, rng: np.random.Generator
) -> tuple[Response, Response]:
    """Two responses in random order; in most pairs the digit alone decides."""

    def draw_response(category: Category, right: bool | None = None) -> Response:
        return respond(category, truth, question, rng, right=right, wording=phase.wording)

    draw = rng.random()
    if draw < 0.32:
        pair = same_wording_pair(truth, question, rng, wording=phase.wording)
    elif draw < 0.46:
        category = _single(phase.wording, rng)
        pair = draw_response(category, right=True), draw_response(category, right=False)
    elif draw < 0.60:
        pair = draw_response(_naming(rng), right=True), draw_response(_naming(rng), right=False)
    elif draw < 0.72:  # both right, or both wrong
        agreed = bool(rng.random() < 0.4)
        category = _category(phase, rng)
        pair = draw_response(category, right=agreed), draw_response(category, right=agreed)
    elif draw < 0.75:
        same = draw_response(_category(phase, rng))
        pair = same, same
    else:
        pair = draw_response(_category(phase, rng)), draw_response(_category(phase, rng))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


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
    choices = _WIDE_SINGLE if wording is Wording.WIDE else _SINGLE
    shares = np.array([c.share for c in choices])
    category = choices[rng.choice(len(choices), p=shares / shares.sum())]
    right = respond(category, truth, question, rng, right=True, wording=wording)
    return right, renamed(right, (other_digit(rng, truth.digit),))


def corpus(count: int, rng: np.random.Generator) -> list[str]:
    """Texts for training the tokenizer."""
    # Every digit's word is one token wherever it stands: the projector aims at its embedding.
    words = [form for word in WORDS for form in (word, word.capitalize())]
    texts = [text for word in words for text in (word, f": {word}")] * (count // 40)
    for _ in range(count):
        truth = Truth(int(rng.integers(10)), bool(rng.random() < 0.5))
        question = prompts.QUESTIONS[rng.integers(len(prompts.QUESTIONS))]
        response = respond(any_category(rng), truth, question, rng)
        texts.append(f"{question}\n{response.text}")
        # The long preamble once in a while: often enough that its words become tokens.
        if rng.random() < 0.1:
            other = respond(any_category(rng), truth, question, rng)
            for item in (
                pointwise_item(question, response, truth),
                pairwise_item(question, response, other, truth),
            ):
                texts += [f"user\n\n{item.user}", f"assistant\n{item.answer}"]
            texts.append(f"system\n{prompts.SYSTEM}")
    return texts


def _fill(template: str, **values: str) -> tuple[str, dict[str, int]]:
    """The text, and for each slot the index right after its value."""
    text, ends = "", {}
    while "{" in template:
        before, _, rest = template.partition("{")
        slot, _, template = rest.partition("}")
        text += before + values[slot]
        ends[slot] = len(text)
    return text + template, ends
