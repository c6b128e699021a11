"""Responses claim what they are scored for, whatever the wording and the seed."""

import re

import numpy as np
import pytest

from embedded_critic import phrasings
from embedded_critic.grammar import NAMING, any_category, opposite, other_digit, renamed, respond
from embedded_critic.phrases import WORDS
from embedded_critic.rubric import BY_NAME, CATEGORIES, Category, Claim, Truth
from embedded_critic.style import styled, with_slip, with_synonyms
from embedded_critic.texts import Wording

DRAWS = 60
wordings = pytest.mark.parametrize("wording", list(Wording), ids=lambda w: w.value)
categories = pytest.mark.parametrize("category", CATEGORIES, ids=lambda c: c.name)


def truth_of(rng: np.random.Generator) -> Truth:
    return Truth(int(rng.integers(10)), bool(rng.random() < 0.5))


def says(text: str, digit: int) -> bool:
    return re.search(f"{digit}|{WORDS[digit]}", text.lower()) is not None


@wordings
@categories
def test_scores_are_those_of_the_rubric(category: Category, wording: Wording) -> None:
    rng = np.random.default_rng(1)
    allowed = {category.right, category.wrong}
    if category.claim in (Claim.COLOURED, Claim.REASONED):
        allowed.add(category.half_right)
    for _ in range(DRAWS):
        truth = truth_of(rng)
        response = respond(category, truth, "What is this?", rng, wording=wording)
        assert response.score(truth) in allowed


@wordings
@pytest.mark.parametrize("category", NAMING, ids=lambda c: c.name)
def test_what_is_asked_for_as_right_or_wrong_is(category: Category, wording: Wording) -> None:
    rng = np.random.default_rng(2)
    for _ in range(DRAWS):
        truth = truth_of(rng)
        for right in (True, False):
            response = respond(category, truth, "?", rng, wording=wording, right=right)
            assert response.holds(truth) == right
            assert all(says(response.text, digit) for digit in response.named)


@wordings
@pytest.mark.parametrize("category", [c for c in CATEGORIES if c.num_digits], ids=lambda c: c.name)
def test_turning_a_claim_over_changes_the_worth(category: Category, wording: Wording) -> None:
    rng = np.random.default_rng(3)
    for _ in range(DRAWS):
        truth = truth_of(rng)
        response = respond(category, truth, "?", rng, wording=wording)
        turned = opposite(response, truth, rng)
        assert turned is not None
        if category.claim in (Claim.BELOW, Claim.ABOVE) and truth.digit in (0, 9):
            continue  # nothing is below zero
        assert turned.score(truth) != response.score(truth)


@wordings
def test_renaming_changes_digits_and_nothing_else(wording: Wording) -> None:
    rng = np.random.default_rng(4)
    masks = re.compile("|".join([r"\ban? (?=#)", r"\d", *WORDS]), re.IGNORECASE)
    plain = [BY_NAME[name] for name in ("sentence", "short", "terse", "hedged", "filler")]
    for _ in range(5 * DRAWS):
        truth = truth_of(rng)
        response = respond(plain[rng.integers(len(plain))], truth, "?", rng, wording=wording)
        other = renamed(response, (other_digit(rng, *response.named),))

        def masked(text: str) -> str:
            return re.sub(r"\ban? #", "#", masks.sub("#", text), flags=re.IGNORECASE)

        assert masked(response.text) == masked(other.text)
        assert response.text != other.text


@wordings
def test_a_wrong_answer_that_pleads_is_never_worth_more_than_one_that_does_not(
    wording: Wording,
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(DRAWS):
        truth = truth_of(rng)
        fake = respond(BY_NAME["fake_claim"], truth, "?", rng, wording=wording, right=False)
        plain = respond(BY_NAME["short"], truth, "?", rng, wording=wording, right=False)
        assert fake.score(truth) < plain.score(truth)


@wordings
def test_a_response_can_be_drawn_again_from_its_seed(wording: Wording) -> None:
    rng = np.random.default_rng(6)
    for _ in range(5 * DRAWS):
        truth = truth_of(rng)
        response = respond(any_category(rng, wording), truth, "What?", rng, wording=wording)
        assert renamed(response, response.named) == response


def test_no_text_of_the_training_is_a_held_out_one() -> None:
    rng = np.random.default_rng(9)
    num_redrawn = 0
    for category in CATEGORIES:
        for _ in range(8 * DRAWS):
            response = respond(category, truth_of(rng), "What is this?", rng)
            template = phrasings.masked(response.text, response.named)
            assert not phrasings.is_kept_back(category.name, template)
            num_redrawn += "{0}" in template
    assert num_redrawn > 1000  # the masks do find the digits


@pytest.mark.parametrize(
    ("text", "template"),
    [("It's a Seven!", "it's {a0}."), ("is it 7 or an 8 ?", "Is it {0} or {a1}?")],
)
def test_a_rendered_text_is_known_by_its_template(text: str, template: str) -> None:
    assert phrasings.key(phrasings.masked(text, (7, 8))) == phrasings.key(template)


def test_nothing_is_said_of_ink_and_paper_of_a_coloured_picture() -> None:
    rng = np.random.default_rng(7)
    coloured = Truth(3, dark_on_light=True, coloured=True)
    drawn = {respond(BY_NAME["detailed"], coloured, "?", rng).category.name for _ in range(DRAWS)}
    assert drawn == {"sentence"}


@pytest.mark.parametrize("vary", [with_slip, with_synonyms, styled])
def test_style_spares_the_words_that_decide(vary: object) -> None:
    rng = np.random.default_rng(8)
    text = "Not a seven but an 8, odd or even, less than three, a white figure on black."
    deciding = re.compile(r"\b(not|seven|8|odd|even|less|than|three|white|black)\b")
    kept = deciding.findall(text.lower())
    for _ in range(500):
        assert deciding.findall(vary(text, rng).lower()) == kept  # type: ignore[operator]
