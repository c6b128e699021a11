"""Does the critic read the question? Trials on held-out pictures of coloured shapes."""

from typing import Any

import numpy as np
from PIL import Image

from adjudge_server.images import Picture
from embedded_critic.judging import Judge, to_picture
from embedded_critic.measures import Compared, Scored, share
from embedded_critic.rubric import TIE_BELOW
from embedded_critic.shape_grammar import answer_with, other_answer, same_wording
from embedded_critic.shapes import COLOURS, SHAPES, ShapePictures, ShapeTruth
from embedded_critic.texts import Wording
from embedded_critic.trials import SEED

RESPONSES = 6


def measure_shapes(judge: Judge, pictures: ShapePictures, wording: Wording) -> dict[str, Any]:
    """The published questions; TRAINED and HELD_OUT are the wordings there are."""
    rng = np.random.default_rng([SEED, 23])
    scored, any_two, word_decides = Scored(), Compared(), Compared()
    exchanged: list[bool] = []
    for pixels, truth in zip(pictures.pixels, pictures.truths, strict=True):
        picture = to_picture(Image.fromarray(pixels))
        question, asked = truth.questions[int(rng.integers(len(truth.questions)))]
        answers = [
            other_answer(truth, question, asked, rng, wording=wording)
            if rng.random() < 0.2
            else answer_with(bool(rng.random() < 0.5), asked, rng, wording=wording)
            for _ in range(RESPONSES)
        ]
        worths = [answer.score(asked) for answer in answers]
        scored.expected += worths
        scored.scored += judge.scores(picture, question, [answer.text for answer in answers])
        same = [same_wording(asked, rng, wording=wording) for _ in range(2)]
        pairs = [*zip(answers[::2], answers[1::2], strict=True), *same]
        readings = judge.comparisons(picture, question, [(a.text, b.text) for a, b in pairs])
        gaps = [a.score(asked) - b.score(asked) for a, b in pairs]
        gaps = [gap if abs(gap) >= TIE_BELOW else 0 for gap in gaps]
        any_two.add(gaps[:-2], readings[:-2])
        word_decides.add(gaps[-2:], readings[-2:])
        exchanged += _exchange(judge, picture, truth, rng, wording)
    return {
        "pointwise": scored.summary(),
        "pairwise_any_two": any_two.decided(),
        "pairwise_word_decides": word_decides.decided(),
        "three_way": any_two.three_way(),
        "same_answers_two_questions": {"n": len(exchanged), "pairwise": share(exchanged)},
    }


def _exchange(
    judge: Judge, picture: Picture, truth: ShapeTruth, rng: np.random.Generator, wording: Wording
) -> list[bool]:
    """The same picture and the same two answers: the question alone says which is the better."""
    by_kind = {
        kind: [q for q, answer in truth.questions if answer in words]
        for kind, words in (("shape", SHAPES), ("colour", COLOURS))
    }
    if not all(by_kind.values()):
        return []
    shape, colour = (
        answer_with(True, word, rng, wording=wording).text for word in (truth.shape, truth.colour)
    )
    [of_shape], [of_colour] = (
        judge.comparisons(picture, by_kind[kind][0], [(shape, colour)])
        for kind in ("shape", "colour")
    )
    return [of_shape.margin > 0, of_colour.margin < 0]
