"""The first questions a critic is asked, before anyone else may ask: is it well, is it noisy?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from adjudge_server import readout
from adjudge_server.content import Message, Part, Question, RawImage, Role
from adjudge_server.critic import Critic, CriticCard, Prepared, Query, Reading
from adjudge_server.errors import AdjudgeError, OffFormat
from adjudge_server.images import Picture, decode
from adjudge_server.queries import Asked, Limits, ask
from adjudge_server.templates import Kind, Readout, Template

P = TypeVar("P", bound=Prepared)

QUESTION, RIGHT, WRONG = (
    "What does this image show?",
    "This is a handwritten number seven.",
    "This is a photograph of a dog on a beach.",
)
"""About a seven that is drawn here."""
QUESTION_IN_WORDS, RIGHT_IN_WORDS, WRONG_IN_WORDS = "What is 2 + 2?", "4", "A dog on a beach."
"""For critics that see no pictures."""
LONGER = "The picture shows a few light lines on a dark ground, I think, though I may be mistaken."
SIDE = 56
MARGIN_OF_SAFETY = 4.0
"""The few queries here see only some of the noise that batches of all shapes make."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a critic showed of itself at start-up."""

    noise_floor: float
    """Nats; a smaller margin cannot be told from zero. Of a scalar head: in its unit, like the
    batched difference, and of the difference of two rewards."""
    batched_difference: float
    """Nats: the largest change of an answer's log-probability between being asked alone and being
    asked among others."""
    prefers_right: bool | None
    """Whether the first templates that are read directly, one of each kind, prefer a right answer
    to a wrong one; None where the critic is off their format, so that it said neither, and where
    there are no such templates."""


def check(critic: Critic[P]) -> SelfCheck:
    """Runs every template once, on a known pair among others.

    The noise floor is the batched difference, doubled for the difference of two, with a margin of
    safety. Raises ValueError where a reading is not finite: such a critic must not serve.
    """
    queries = _queries(critic.card)
    items = _prepared(critic, queries)
    alone = [_afresh(critic, [item])[0] for item in items]
    together = _afresh(critic, items)
    _check_finite([*alone, *together])
    difference = max(
        float(np.abs(a.numbers - b.numbers).max()) for a, b in zip(alone, together, strict=True)
    )
    return SelfCheck(
        noise_floor=2 * MARGIN_OF_SAFETY * difference,
        batched_difference=difference,
        prefers_right=_prefers_right(critic.card, queries, together),
    )


def worst_batch(critic: Critic[P], max_batch_tokens: int) -> list[P]:
    """Long questions with nothing in common but the beginning, as many as a batch has room for."""
    template = critic.card.templates[0]
    asked = _asked(critic.card, template)
    slots = ("candidate",) if template.kind is Kind.POINTWISE else ("first", "second")

    def long(number: int, repeats: int) -> Query:
        return asked.query(dict.fromkeys(slots, f"{number}. " + LONGER * repeats))

    (one,), (two,) = (_prepared(critic, [long(0, repeats)]) for repeats in (1, 2))
    shared, each = one.shared_tokens, max(1, two.own_tokens - one.own_tokens)
    own = min((max_batch_tokens - shared) // 4, critic.card.max_input_tokens - shared)
    repeats = max(1, 1 + (own - one.own_tokens) // each)
    count = max(1, (max_batch_tokens - shared) // (one.own_tokens + (repeats - 1) * each))
    return _prepared(critic, [long(number, repeats) for number in range(count)])


def check_room(critic: Critic[P], max_batch_tokens: int) -> None:
    """Computes the worst batch. Raises ValueError, naming the flag, where it does not fit: better
    now than in a training's third week."""
    try:
        critic.forward(worst_batch(critic, max_batch_tokens))
    except MemoryError as error:
        raise ValueError(
            f"--max-batch-tokens {max_batch_tokens}: such a batch does not fit the memory of"
            f" {critic.card.device} beside the model ({error})"
        ) from error
    finally:
        critic.forget()


def ask_first(critic: Critic[P], *, afresh: bool) -> None:
    """The first of these questions once more, of a critic that began to fail. Raises whatever it
    raises, ValueError where its answer is not finite. `afresh`: with nothing remembered, because
    what is remembered may be what is broken."""
    if afresh:
        critic.forget()
    _check_finite(critic.forward(_prepared(critic, _queries(critic.card)[:1])))


def _afresh(critic: Critic[P], items: Sequence[P]) -> list[Reading]:
    """With nothing remembered: what two batches take from one memory cannot differ in it."""
    critic.forget()
    return critic.forward(items)


def read_directly(card: CriticCard) -> list[Template]:
    """The templates that can be read without a critique."""
    return [template for template in card.templates if Readout.DIRECT in template.readouts]


def _queries(card: CriticCard) -> list[Query]:
    queries = []
    for template in card.templates:
        asked = _asked(card, template)
        right, wrong = _known_pair(card)
        if template.kind is Kind.POINTWISE:
            queries += [asked.query({"candidate": text}) for text in (right, wrong, LONGER, "")]
        else:
            pairs = (right, wrong), (wrong, right), (right, LONGER)
            queries += [asked.query({"first": a, "second": b}) for a, b in pairs]
    return queries


def _known_pair(card: CriticCard) -> tuple[str, str]:
    return (RIGHT, WRONG) if card.sees_images else (RIGHT_IN_WORDS, WRONG_IN_WORDS)


def _asked(card: CriticCard, template: Template) -> Asked:
    parts: tuple[Part, ...] = (
        (QUESTION, _drawn_seven()) if card.sees_images else (QUESTION_IN_WORDS,)
    )
    if "prompt" not in template.slots:
        parts = ("", *parts[1:])
    filler = {slot: RIGHT for slot in ("reference", "rubric") if slot in template.slots}
    question = Question((Message(Role.USER, parts),), template.name, **filler)
    return ask(question, template.kind, card, Limits(1, 3, 3), _read)


def _prepared(critic: Critic[P], queries: Sequence[Query]) -> list[P]:
    prepared = critic.prepare(queries)
    refused = [item for item in prepared if isinstance(item, AdjudgeError)]
    if refused:
        raise ValueError(f"the critic cannot take the shortest questions: {refused[0]}")
    return [item for item in prepared if not isinstance(item, AdjudgeError)]


def _prefers_right(
    card: CriticCard, queries: Sequence[Query], readings: Sequence[Reading]
) -> bool | None:
    verdicts = []
    for kind in Kind:
        template = next((t for t in read_directly(card) if t.kind is kind), None)
        if template is None:
            continue
        of_template = [r for q, r in zip(queries, readings, strict=True) if q.template is template]
        try:
            first, second = of_template[:2]
            if kind is Kind.POINTWISE:
                better, worse = (readout.reward(template, r).reward for r in (first, second))
                verdicts.append(better > worse)
            else:
                verdicts.append(readout.comparison(template, [first, second], 0.0).margin > 0)
        except OffFormat:
            return None
    return all(verdicts) if verdicts else None


def _drawn_seven() -> RawImage:
    image = Image.new("L", (SIDE, SIDE))
    strokes = ImageDraw.Draw(image)
    strokes.line([(14, 14), (41, 14), (26, 44)], fill=255, width=5, joint="curve")
    return RawImage("L", SIDE, SIDE, image.tobytes())


def _read(image: object) -> Picture:
    assert isinstance(image, RawImage)
    return decode(image, max_pixels=SIDE * SIDE)


def _check_finite(readings: Sequence[Reading]) -> None:
    for reading in readings:
        if not reading.is_finite:
            raise ValueError(
                "the critic produced a number that is not finite at the first questions"
            )
