"""The first questions a critic is asked, before anyone else may ask: is it well, is it noisy?"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from adjudge_server.content import Message, Part, Question, RawImage, Role
from adjudge_server.critic import Critic, Prepared, Reading
from adjudge_server.errors import AdjudgeError
from adjudge_server.images import Picture, decode
from adjudge_server.queries import Limits, ask
from adjudge_server.templates import Kind

P = TypeVar("P", bound=Prepared)

CANDIDATES = ("A white square.", "", "The picture shows a dark square on a light ground, I think.")
MARGIN_OF_SAFETY = 4.0
"""The few queries here see only some of the noise that batches of all shapes make."""


def warm_up(critic: Critic[P]) -> float:
    """Runs every template once and returns the noise floor of margins in nats.

    The floor is the largest change of any answer's log-probability between being asked alone and
    being asked among others, doubled for the difference of two, with a margin of safety. Raises
    ValueError where a reading is not finite: such a critic must not serve.
    """
    items = _items(critic)
    alone = [critic.forward([item])[0] for item in items]
    together = critic.forward(items)
    _check_finite([*alone, *together])
    noise = max(
        float(np.abs(a.answer_log_probs - b.answer_log_probs).max())
        for a, b in zip(alone, together, strict=True)
    )
    return 2 * MARGIN_OF_SAFETY * noise


def _items(critic: Critic[P]) -> list[P]:
    card = critic.card
    limits = Limits(max_images=1, max_candidates=len(CANDIDATES), max_pairs=1)
    parts: tuple[Part, ...] = ("What is this?", _square()) if card.sees_images else ("What is 1?",)
    queries = []
    for template in card.templates:
        question = Question((Message(Role.USER, parts),), template.name)
        asked = ask(question, template.kind, card, limits, _read)
        if template.kind is Kind.POINTWISE:
            queries += [asked.query({"candidate": text}) for text in CANDIDATES]
        else:
            first, second, third = CANDIDATES
            queries += [asked.query({"first": first, "second": s}) for s in (second, third)]
    prepared = critic.prepare(queries)
    refused = [item for item in prepared if isinstance(item, AdjudgeError)]
    if refused:
        raise ValueError(f"the critic cannot take the shortest questions: {refused[0]}")
    return [item for item in prepared if not isinstance(item, AdjudgeError)]


def _square() -> RawImage:
    image = Image.new("L", (28, 28))
    image.paste(255, (8, 8, 20, 20))
    return RawImage("L", 28, 28, image.tobytes())


def _read(image: object) -> Picture:
    assert isinstance(image, RawImage)
    return decode(image, max_pixels=28 * 28)


def _check_finite(readings: Sequence[Reading]) -> None:
    for reading in readings:
        if not (np.isfinite(reading.opening_mass) and np.isfinite(reading.answer_log_probs).all()):
            raise ValueError("the critic produced a number that is not finite at warm-up")
