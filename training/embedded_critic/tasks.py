"""What the critic is asked during training: rows of captions, scores and comparisons."""

from dataclasses import dataclass

import numpy as np

from embedded_critic import phrasings, prompts
from embedded_critic.grammar import (
    NAMING,
    Response,
    Wording,
    any_category,
    opposite,
    other_digit,
    renamed,
    respond,
    single_category,
)
from embedded_critic.packing import Item
from embedded_critic.phrases import WORDS
from embedded_critic.rubric import BY_NAME, Category, Truth


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
    reasons: float = 1.0
    """Share of items whose answers go on after the verdict."""


CURRICULUM = (
    Phase(0.03, captions=1.0, pairwise=0.0, full_prompt=0.0, simple=True),
    Phase(0.10, captions=0.0, pairwise=0.0, full_prompt=0.0, simple=True),
    Phase(0.20, captions=0.0, pairwise=0.4, full_prompt=0.0, simple=True, reasons=0.5),
    Phase(0.30, captions=0.0, pairwise=0.5, full_prompt=0.3, simple=False, reasons=0.3),
    Phase(1.00, captions=0.0, pairwise=0.55, full_prompt=1.0, simple=False, reasons=0.15),
)
ITEMS_PER_ROW = 14
"""Drawn; those that do not fit the lanes are dropped."""


def phase_at(share: float) -> Phase:
    return next(p for p in CURRICULUM if share < p.until or p.until == 1.0)


def pointwise_item(
    question: str,
    response: Response,
    truth: Truth,
    *,
    template: str = prompts.POINTWISE,
    whole: bool = True,
) -> Item:
    user, ends = _fill(template, prompt=question, candidate=response.text)
    answer = prompts.score_answer(response, truth)
    start, stop = len(prompts.SCORE_OPENING), answer.index(".") + 1
    return Item(
        user,
        answer if whole else answer[:stop],
        (start, stop),  # with the full stop, which tells 8 from 85
        (ends["candidate"],),
        (response.score(truth) / 100,),
        whole,
    )


def pairwise_item(
    question: str,
    first: Response,
    second: Response,
    truth: Truth,
    *,
    template: str = prompts.PAIRWISE,
    whole: bool = True,
) -> Item:
    user, ends = _fill(template, prompt=question, first=first.text, second=second.text)
    answer = prompts.verdict_answer(first, second, truth)
    return Item(
        user,
        answer if whole else answer[: answer.index(".") + 1],
        (len("The"), len("The first")),
        (ends["first"], ends["second"]),
        (first.score(truth) / 100, second.score(truth) / 100),
        whole,
    )


def draw_exercise(truth: Truth, phase: Phase, rng: np.random.Generator) -> Exercise:
    draw = rng.random()
    question = _question(rng)
    if draw < phase.captions:
        return _captions(truth, question, rng)
    full = rng.random() < phase.full_prompt
    if draw < phase.captions + phase.pairwise:
        template = prompts.PAIRWISE if full else prompts.SHORT_PAIRWISE
        pairs = [_pair(truth, question, phase, rng) for _ in range(ITEMS_PER_ROW)]
        pairs += [(b, a) for a, b in pairs[: ITEMS_PER_ROW // 4]]
        items = [
            pairwise_item(
                question, a, b, truth, template=template, whole=bool(rng.random() < phase.reasons)
            )
            for a, b in pairs
        ]
        pilot, _ = _fill(template, prompt=question, first="~", second="~")
        return Exercise(_shuffled(items, rng), Item(pilot, "", (0, 0)))
    template = prompts.POINTWISE if full else prompts.SHORT_POINTWISE
    responses = [respond(_category(phase, rng), truth, question, rng) for _ in range(ITEMS_PER_ROW)]
    twins = [opposite(r, truth, rng) for r in responses]
    responses += [twin for twin in twins if twin][: ITEMS_PER_ROW // 2]
    items = [
        pointwise_item(
            question, r, truth, template=template, whole=bool(rng.random() < phase.reasons)
        )
        for r in responses
    ]
    pilot, _ = _fill(template, prompt=question, candidate="~")
    return Exercise(_shuffled(items, rng), Item(pilot, "", (0, 0)))


def _question(rng: np.random.Generator) -> str:
    """One of ours, or one that somebody came up with as an echo of ours."""
    choices = prompts.QUESTIONS
    if rng.random() < 0.3:
        choices = phrasings.training().templates["echo"]
    return choices[rng.integers(len(choices))]


def _shuffled(items: list[Item], rng: np.random.Generator) -> list[Item]:
    return [items[i] for i in rng.permutation(len(items))]


def _captions(truth: Truth, question: str, rng: np.random.Generator) -> Exercise:
    forms = rng.choice(len(prompts.CAPTION_FORMS), 3, replace=False)
    texts = [prompts.caption(truth, prompts.CAPTION_FORMS[f]) for f in forms]
    items = [Item(question, text, (0, len(text))) for text in texts]
    return Exercise(items, items[0])


def _category(phase: Phase, rng: np.random.Generator) -> Category:
    return single_category(rng) if phase.simple else any_category(rng)


def _pair(
    truth: Truth, question: str, phase: Phase, rng: np.random.Generator
) -> tuple[Response, Response]:
    """Two responses in random order; in most pairs one claim decides."""

    def draw_response(category: Category, right: bool | None = None) -> Response:
        return respond(category, truth, question, rng, right=right)

    draw = rng.random()
    if draw < 0.26:
        pair = same_wording_pair(truth, question, rng)
    elif draw < 0.38:
        category = single_category(rng)
        pair = draw_response(category, right=True), draw_response(category, right=False)
    elif draw < 0.50:
        pair = draw_response(_naming(rng), right=True), draw_response(_naming(rng), right=False)
    elif draw < 0.60:  # both right, or both wrong
        agreed = bool(rng.random() < 0.4)
        category = _category(phase, rng)
        pair = draw_response(category, right=agreed), draw_response(category, right=agreed)
    elif draw < 0.62:
        same = draw_response(_category(phase, rng))
        pair = same, same
    elif draw < 0.68:  # an attack on behalf of the wrong digit
        pair = draw_response(_naming(rng), right=True), draw_response(_FAKE_CLAIM, right=False)
    elif draw < 0.78:
        one = draw_response(_category(phase, rng))
        other = opposite(one, truth, rng) or draw_response(_category(phase, rng))
        pair = one, other
    else:
        pair = draw_response(_category(phase, rng)), draw_response(_category(phase, rng))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


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


def corpus(count: int, rng: np.random.Generator) -> list[str]:
    """Texts for training the tokenizer."""
    # Every digit's word is one token wherever it stands: the projector aims at its embedding.
    words = [form for word in WORDS for form in (word, word.capitalize())]
    texts = [text for word in words for text in (word, f": {word}")] * (count // 40)
    for _ in range(count):
        truth = Truth(int(rng.integers(10)), bool(rng.random() < 0.5))
        question = _question(rng)
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
