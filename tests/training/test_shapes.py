"""The second domain: what is asked decides what is right."""

import re

import numpy as np
import pytest

from embedded_critic.shape_grammar import answer_with, kind_of, other_answer, same_wording
from embedded_critic.shapes import COLOURS, SHAPES, YES_NO, ShapeTruth, _only
from embedded_critic.texts import Wording

TRUTH = ShapeTruth("circle", "red", (("what shape is it?", "circle"), ("what color?", "red")))
WORDINGS = (Wording.TRAINED, Wording.HELD_OUT)


@pytest.mark.parametrize(
    ("questions", "shape", "colour"),
    [
        ([("what is the blue shape?", "circle")], "circle", "blue"),
        ([("what color is the triangle?", "teal")], "triangle", "teal"),
        ([("is there a red shape?", "no"), ("is there a circle?", "yes")], "circle", None),
        ([("is no red shape present?", "no")], None, "red"),
        ([("does the image not contain a circle?", "yes")], None, None),
        ([("is there not a gray shape in the image?", "no")], None, "gray"),
    ],
)
def test_what_the_questions_tell_of_the_picture(
    questions: list[tuple[str, str]], shape: str | None, colour: str | None
) -> None:
    assert _only(questions, SHAPES) == shape
    assert _only(questions, COLOURS) == colour


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("asked", [*SHAPES, *COLOURS, *YES_NO])
def test_right_answers_score_above_wrong_ones(asked: str, wording: Wording) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        right, wrong = (answer_with(r, asked, rng, wording=wording) for r in (True, False))
        assert right.score(asked) == right.category.right > wrong.score(asked)
        assert all(kind_of(word) == kind_of(asked) for word in (*right.claimed, *wrong.claimed))
        if asked not in YES_NO:
            assert asked in right.text.lower()


@pytest.mark.parametrize("wording", WORDINGS)
def test_what_is_true_but_not_asked_is_worth_no_more_than_a_wrong_answer(wording: Wording) -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        answer = other_answer(TRUTH, "what shape is it?", "circle", rng, wording=wording)
        assert answer.score("circle") <= 25
        assert answer.score("red") == answer.score("circle")


@pytest.mark.parametrize("wording", WORDINGS)
def test_one_word_decides_between_answers_in_the_same_words(wording: Wording) -> None:
    rng = np.random.default_rng(3)
    for asked in (*SHAPES, *COLOURS):
        for _ in range(20):
            right, wrong = same_wording(asked, rng, wording=wording)
            assert right.score(asked) > wrong.score(asked)
            assert wrong.text.lower().replace(wrong.claimed[0], asked) == right.text.lower()


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize(
    ("question", "answer", "aside"),
    [("is there a circle?", "yes", "red"), ("is no blue shape present?", "yes", "circle")],
)
def test_an_aside_does_not_answer_a_question_of_yes_or_no(
    question: str, answer: str, aside: str, wording: Wording
) -> None:
    rng = np.random.default_rng(4)
    shown = ("circle", "red")
    texts = [
        other_answer(TRUTH, question, answer, rng, wording=wording).text.lower() for _ in range(200)
    ]
    said = [word for text in texts for word in shown if re.search(rf"\b{word}\b", text)]
    assert said and set(said) == {aside}
