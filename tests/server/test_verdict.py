"""Where the verdict stands in what a critic wrote, and where its tokens are cut."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.critic import Written
from adjudge_server.template_sets import set_names, templates_of
from adjudge_server.templates import Answer, Template, VerdictPlace
from adjudge_server.verdict import Located, Locator, boundary
from tests.server.questions import locate

POINTWISE, PAIRWISE = templates_of("embedded")
LAST = VerdictPlace.LAST
EVERY = [template for name in set_names() for template in templates_of(name)]
few = settings(deadline=None, max_examples=60)
prose = st.text(alphabet="abc ,\n[]", max_size=20).map(lambda text: f"{text} ")
templates = st.sampled_from(EVERY)


def forms(template: Template) -> list[str]:
    return [form for answer in template.answers for form in answer.forms]


def verdicts(template: Template) -> list[str]:
    return [opening + form for opening in template.openings for form in forms(template)[:9]]


@st.composite
def critiques(draw: st.DrawFn) -> tuple[Template, list[str]]:
    """A template, and a critique in pieces with whatever may confuse its grammar."""
    template = draw(templates)
    words = ["8", "5", "1", "10", ".", " ", "\n", "x", "**", *filter(None, template.openings)]
    words += [*verdicts(template), *(["</think>", "</thi"] if template.after else [])]
    return template, draw(st.lists(st.sampled_from(words), max_size=12))


# What is a verdict --------------------------------------------------------------------------------


@few
@given(before=prose, score=st.integers(0, 100), after=st.sampled_from([".\n", "\n", "]", " ", ","]))
def test_a_score_is_a_verdict_only_once_something_follows_it(
    before: str, score: int, after: str
) -> None:
    text = f"{before}Score: {score}"
    found = Located(len(before), "Score: ")
    assert locate(POINTWISE, text, ended=False) is None
    assert locate(POINTWISE, f"{text}.", ended=False) is None, "it may have decimals"
    assert locate(POINTWISE, text, ended=True) == found
    assert locate(POINTWISE, f"{text}.", ended=True) == found
    assert locate(POINTWISE, text + after, ended=False) == found


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "85.",
        "The score is 85.",
        "score: 85.",
        "Score:85.",
        "Score: ",
        "Score: 101.",
        "Score: 850.",
        "Score: 8a.",
        "Score: 8.5 of 10",
        "Underscore: 8 ",
        "AScore: 8 ",
        "Score: eighty.",
        "Score: -5.",
        "Score: 085.",
    ],
)
def test_what_is_not_the_templates_form_is_no_verdict(text: str, ended: bool) -> None:
    assert locate(POINTWISE, text, ended=ended) is None


@pytest.mark.parametrize("form", forms(PAIRWISE))
def test_each_sentence_of_a_pairwise_template_is_a_verdict(form: str) -> None:
    assert locate(PAIRWISE, f"Well. {form}", ended=False) is None
    assert locate(PAIRWISE, f"Well. {form}", ended=True) == Located(6, "")
    assert locate(PAIRWISE, f"Well. {form}.", ended=False) == Located(6, "")
    assert locate(PAIRWISE, f"Well. {form}x", ended=True) is None
    assert locate(PAIRWISE, form[:-1], ended=True) is None


@few
@given(template=templates, before=prose, data=st.data())
def test_every_opening_with_every_form_is_a_verdict(
    template: Template, before: str, data: st.DataObject
) -> None:
    opening = data.draw(st.sampled_from(template.openings))
    form = data.draw(st.sampled_from(forms(template)))
    comes_late = template.verdict is VerdictPlace.START and before.strip()
    before = f"{template.after}{before}"
    found = locate(template, f"{before}{opening}{form} ", ended=True)
    assert found == (None if comes_late else Located(len(before), opening))


def test_the_longer_opening_is_the_one_that_was_written() -> None:
    template = templates_of("llava-critic")[0]
    assert locate(template, "Final Score: 85", ended=True) == Located(0, "Final Score: ")
    assert locate(template, "Score: [85]", ended=True) == Located(0, "Score: [")


@pytest.mark.parametrize(("text", "start"), [("8 9\n", 0), ("18 9 ", None), ("8.5 9 ", None)])
def test_two_scores_are_whole_numbers(text: str, start: int | None) -> None:
    (relative,) = [t for t in templates_of("llava-critic") if t.name.endswith("/relative")]
    found = locate(relative, text, ended=True)
    assert (found and found.start) == start


# Which one counts ---------------------------------------------------------------------------------


def as_streamed(template: Template, pieces: list[str]) -> Located | None:
    """Found as a server finds it: it stops looking once the verdict is known."""
    locator = Locator(template)
    for piece in pieces:
        if found := locator.feed(piece):
            return found
    return locator.end()


def as_defined(template: Template, text: str) -> Located | None:
    """The definition of a verdict, without a regular expression and without memory."""
    begin = 0
    if template.after:
        begin = text.find(template.after) + len(template.after)
        if template.after not in text:
            return None
    if template.verdict is VerdictPlace.START:
        begin += len(text[begin:]) - len(text[begin:].lstrip())
    found = None
    while begin <= len(text):
        here = verdict_at(template, text, begin)
        if here is not None:
            found = Located(begin, here[0])
        if template.verdict is VerdictPlace.START or (found and template.verdict is not LAST):
            return found
        begin += len("".join(here)) if here else 1
    return found


def verdict_at(template: Template, text: str, place: int) -> tuple[str, str] | None:
    """Opening and form, the longer opening first, then the longer form."""
    in_a_word = is_alphanumeric(text[place - 1 : place]) or (
        text[place - 1 : place] == "." and is_digit(text[max(place - 2, 0) : place - 1])
    )
    if is_alphanumeric(text[place : place + 1]) and in_a_word:
        return None
    for opening in sorted(template.openings, key=len, reverse=True):
        for form in sorted(forms(template), key=len, reverse=True):
            whole = opening + form
            after = text[place + len(whole) :]
            goes_on = is_alphanumeric(after[:1]) or (
                is_digit(whole[-1]) and after[:1] == "." and is_digit(after[1:2])
            )
            if text.startswith(whole, place) and not goes_on:
                return opening, form
    return None


def is_alphanumeric(character: str) -> bool:
    return character.isascii() and character.isalnum()


def is_digit(character: str) -> bool:
    return character.isascii() and character.isdigit()


@st.composite
def nested(draw: st.DrawFn) -> tuple[Template, list[str]]:
    """A template whose longer wordings hold its shorter ones, and a critique of such pieces."""
    parts = st.sampled_from(["A", "B", "1", "10", "[A]", "5.", ". ", "not "])
    short = draw(st.lists(parts, min_size=2, max_size=3, unique=True))
    around = st.sampled_from(["", "not ", "x ", " ", ".", " and ", "]"])
    inner = st.sampled_from(short)
    longer = st.tuples(around, inner, around, inner, around).map("".join)
    wordings = list(dict.fromkeys([*short, *draw(st.lists(longer, min_size=1, max_size=3))]))
    openings = draw(st.lists(st.just("") | around | longer, min_size=1, max_size=2, unique=True))
    answers = (Answer("first", tuple(wordings[::2])), Answer("second", tuple(wordings[1::2])))
    template = replace(
        PAIRWISE,
        answers=answers,
        opening=openings[0],
        other_openings=tuple(openings[1:]),
        after=draw(st.sampled_from(["", "", "", "</think>", ".", "A"])),
    )
    written = st.sampled_from(["</think>", "é", *wordings, *openings]) | around
    return template, draw(st.lists(written, max_size=5))


def cut(draw: Callable[[st.SearchStrategy[int]], int], text: str) -> list[str]:
    pieces, at = [], 0
    while at < len(text):
        size = draw(st.integers(1, 5))
        pieces.append(text[at : at + size])
        at += size
    return pieces


@few
@given(critique=critiques(), data=st.data())
def test_how_a_critique_was_cut_into_pieces_makes_no_difference(
    critique: tuple[Template, list[str]], data: st.DataObject
) -> None:
    template, pieces = critique
    for place in {template.verdict, data.draw(st.sampled_from(VerdictPlace))}:
        check_every_way(replace(template, verdict=place), pieces, data)


@settings(deadline=None, max_examples=400)
@given(critique=nested(), place=st.sampled_from(VerdictPlace), data=st.data())
def test_not_even_where_forms_and_openings_lie_in_each_other(
    critique: tuple[Template, list[str]], place: VerdictPlace, data: st.DataObject
) -> None:
    template, pieces = critique
    check_every_way(replace(template, verdict=place), pieces, data)


def check_every_way(template: Template, pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    whole = as_defined(template, text)
    assert locate(template, text, ended=True) == whole
    assert as_streamed(template, [text]) == whole
    assert as_streamed(template, list(text)) == whole
    assert as_streamed(template, pieces) == whole
    assert as_streamed(template, cut(data.draw, text)) == whole


@pytest.mark.parametrize("place", [VerdictPlace.FIRST, VerdictPlace.LAST])
@pytest.mark.parametrize(
    ("tie", "pieces"),
    [
        ("A and B are equal", ["A", " and", " B", " are", " equal", "."]),
        ("Neither A nor B", ["Neither", " A", " nor", " B", "."]),
        ("A. B", ["A", ".", " B", " "]),
    ],
)
def test_a_form_inside_a_longer_one_is_no_verdict_of_its_own(
    place: VerdictPlace, tie: str, pieces: list[str]
) -> None:
    answers = (Answer("first", ("A",)), Answer("second", ("B",)), Answer("tie", (tie,)))
    template = replace(PAIRWISE, answers=answers, verdict=place)
    assert as_streamed(template, pieces) == Located(0, "")


@pytest.mark.parametrize("place", [VerdictPlace.FIRST, VerdictPlace.LAST])
def test_what_makes_a_number_longer_is_remembered_however_little_was_forgotten(
    place: VerdictPlace,
) -> None:
    bare = replace(POINTWISE, opening="", verdict=place)
    for before in ("", *("x" * length + " " for length in range(12))):
        pieces = [*before, "0", ".", "8", "5", " ", "o", "u", "t"]
        assert as_streamed(bare, pieces) is None


@few
@given(critique=critiques())
def test_a_verdict_once_found_stays_where_it_is(critique: tuple[Template, list[str]]) -> None:
    template, pieces = critique
    template = replace(template, verdict=VerdictPlace.FIRST)
    text = "".join(pieces)
    locator = Locator(template)
    found = [locator.feed(character) for character in text]
    places = [place for place in found if place is not None]
    assert len(set(places)) <= 1
    assert found == [None] * (len(found) - len(places)) + places, "and is not lost again"
    if places:
        assert locator.end() == places[0]


@few
@given(template=templates, first=prose, second=prose, data=st.data())
def test_of_two_verdicts_the_first_or_the_last_counts(
    template: Template, first: str, second: str, data: st.DataObject
) -> None:
    one, other = (data.draw(st.sampled_from(verdicts(template))) for _ in range(2))
    text = f"{template.after}{first}{one} {second}{other}"
    found = {
        place: locate(replace(template, verdict=place), text, ended=True) for place in VerdictPlace
    }
    last = found[VerdictPlace.LAST]
    assert found[VerdictPlace.FIRST] is not None and last is not None
    assert found[VerdictPlace.FIRST].start == len(template.after + first)
    assert last.start == len(text) - len(other)


@few
@given(critique=critiques())
def test_the_last_verdict_is_not_known_before_the_end(
    critique: tuple[Template, list[str]],
) -> None:
    template = replace(critique[0], verdict=VerdictPlace.LAST)
    assert locate(template, "".join(critique[1]), ended=False) is None


@few
@given(critique=critiques(), after=st.sampled_from(["</think>", "\n", "Verdict:"]))
def test_no_verdict_stands_before_the_text_that_it_must_follow(
    critique: tuple[Template, list[str]], after: str
) -> None:
    text = "".join(critique[1])
    found = locate(replace(critique[0], after=after), text, ended=True)
    if after in text:
        place = text.index(after) + len(after)
        assert found is None or found.start >= place
    else:
        assert found is None


def test_a_long_critique_is_searched_once() -> None:
    """What is searched at every token does not grow with the critique."""
    locator = Locator(templates_of("llava-critic")[0])
    for _ in range(50_000):
        assert locator.feed("The score: ten. ") is None
        assert len(locator._text) < 100
    assert locator.feed("Score: 10\n") == Located(50_000 * 16, "Score: ")


NAMED = {template.name: template for template in templates_of("llava-critic")}


@pytest.mark.parametrize(
    ("name", "text", "start"),
    [
        ("relative", "8 9\nThe second is better.", 0),
        ("relative", "\n 8 9\nThe second is better.", 2),
        ("relative", "8.5 9.5\nFor example in 2 3 cases.", None),
        ("relative", "I would say 8 9\n", None),
        ("relative-reference", "10 7\nGood.", 0),
        ("relative-reference", "10 7.5\nAssistant 2 covers 10 3 things.", None),
        ("yes-no", "No. It shows a cat.", 0),
        ("yes-no", "The picture shows a cat. No dog is there.", None),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_what_must_come_at_the_start_is_found_nowhere_else(
    name: str, text: str, start: int | None, step: int
) -> None:
    """Or a pair of numbers in the explanation would be read as the scores."""
    locator = Locator(NAMED[f"llava-critic/{name}"])
    found = [locator.feed(text[i : i + step]) for i in range(0, len(text), step)][-1]
    found = found or locator.end()
    assert (found.start if found else None) == start


# Where tokens are cut -----------------------------------------------------------------------------


@few
@given(texts=st.lists(st.sampled_from(["", "a", " b", "語", "."]), max_size=12), data=st.data())
def test_tokens_are_cut_at_the_last_whole_character_before_a_place(
    texts: list[str], data: st.DataObject
) -> None:
    """A token without text is one whose character is not complete."""
    written = [Written(i, text) for i, text in enumerate(texts)]
    start = data.draw(st.integers(0, len("".join(texts))))
    tokens, characters = boundary(written, start)
    assert characters == len("".join(texts[:tokens])) <= start
    assert tokens == 0 or texts[tokens - 1], "never within a character"
    longer = [n for n in range(tokens + 1, len(texts) + 1) if texts[n - 1]]
    assert all(len("".join(texts[:n])) > start for n in longer)


def test_a_character_of_three_tokens_is_not_cut() -> None:
    written = [Written(1, "So:"), Written(2, ""), Written(3, ""), Written(4, "語"), Written(5, "!")]
    assert boundary(written, 3) == (1, 3)
    assert boundary(written, 4) == (4, 4)
    assert boundary([], 0) == (0, 0)
