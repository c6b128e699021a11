"""Templates: the published prompts to the byte, slots, hashes, and tables that make no sense."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.templates import (
    Answer,
    Kind,
    Readout,
    Template,
    builtin_templates,
    parse_templates,
)

# What LLaVA-Critic was trained with and publishes; written down here a second time on purpose.
POINTWISE = (
    "Given an image and a corresponding question, please serve as an unbiased and fair judge to"
    " evaluate the quality of the answer provided by a Large Multimodal Model (LMM). Score the"
    " response out of 100 and explain your reasoning with specific details. Your task is provided"
    " as follows:\nQuestion: [What this image presents?]\nThe LMM response: [This is a handwritten"
    " number seven.]\nASSISTANT:\n"
)
PAIRWISE = (
    "Given an image and a corresponding question, please serve as an unbiased and fair judge to"
    " evaluate the quality of the answers provided by a Large Multimodal Model (LMM). Determine"
    " which answer is better and explain your reasoning with specific details. Your task is"
    " provided as follows:\nQuestion: [What this image presents?]\nThe first response: [The image"
    " is a black and white sketch of a line that appears to be in the shape of a cross. The line is"
    " a simple and straightforward representation of the cross shape, with two straight lines"
    " intersecting at a point.]\nThe second response: [This is a handwritten number"
    " seven.]\nASSISTANT:\n"
)
QUESTION = "What this image presents?"
SEVEN = "This is a handwritten number seven."
CROSS = (
    "The image is a black and white sketch of a line that appears to be in the shape of a cross."
    " The line is a simple and straightforward representation of the cross shape, with two straight"
    " lines intersecting at a point."
)


def builtin(name: str) -> Template:
    (found,) = [template for template in builtin_templates() if template.name == name]
    return found


def test_the_pointwise_prompt_is_the_published_one_byte_for_byte() -> None:
    rendered = builtin("embedded/pointwise").render({"prompt": QUESTION, "candidate": SEVEN})
    assert rendered.text == POINTWISE


def test_the_pairwise_prompt_is_the_published_one_byte_for_byte() -> None:
    values = {"prompt": QUESTION, "first": CROSS, "second": SEVEN}
    assert builtin("embedded/pairwise").render(values).text == PAIRWISE


def test_builtin_templates_have_names_and_hashes_of_their_own() -> None:
    templates = builtin_templates()
    assert len({template.name for template in templates}) == len(templates)
    assert len({template.hash for template in templates}) == len(templates)


def test_pointwise_answers_are_worth_what_they_say() -> None:
    template = builtin("embedded/pointwise")
    assert [answer.label for answer in template.answers] == [str(n) for n in range(101)]
    assert all(answer.forms == (answer.label,) for answer in template.answers)
    assert template.scores == tuple(float(n) for n in range(101))


def test_pairwise_answers_are_first_second_and_tie_in_that_order_and_worth_nothing() -> None:
    template = builtin("embedded/pairwise")
    assert [answer.label for answer in template.answers] == ["first", "second", "tie"]
    assert template.scores == ()


# Rendering ----------------------------------------------------------------------------------------

hostile = st.lists(
    st.sampled_from(
        ["{prompt}", "{candidate}", "{first}", "{second}", "{", "}", "]\n", "\\g<0>", "a"]
    ),
    max_size=6,
).map("".join)


@settings(deadline=None)
@given(prompt=hostile, first=hostile, second=hostile)
def test_a_slot_named_inside_a_value_is_not_filled(prompt: str, first: str, second: str) -> None:
    values = {"prompt": prompt, "first": first, "second": second}
    rendered = builtin("embedded/pairwise").render(values)
    opening, question, rest = PAIRWISE.partition(f"Question: [{QUESTION}]")
    assert question
    assert rendered.text == (
        f"{opening}Question: [{prompt}]\nThe first response: [{first}]\n"
        f"The second response: [{second}]\nASSISTANT:\n"
    )
    assert rest.startswith("\nThe first response: [")


@settings(deadline=None)
@given(prompt=hostile, one=hostile, other=hostile)
def test_the_head_is_what_all_candidates_share(prompt: str, one: str, other: str) -> None:
    template = builtin("embedded/pointwise")
    this = template.render({"prompt": prompt, "candidate": one})
    that = template.render({"prompt": prompt, "candidate": other})
    assert this.head == that.head
    assert this.head.endswith(f"Question: [{prompt}]\nThe LMM response: [")
    assert this.text == f"{this.head}{one}]\nASSISTANT:\n"


def test_a_value_for_every_slot_is_needed() -> None:
    with pytest.raises(KeyError):
        builtin("embedded/pointwise").render({"prompt": QUESTION})


# Hash ---------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "name": "other/pointwise",
    "version": 2,
    "kind": Kind.PAIRWISE,
    "text": "[{prompt}] [{candidate}]",
    "opening": "Score:",
    "answers": (Answer("0", ("0",), 0.0), Answer("1", ("1",), 1.0)),
    "terminators": (".",),
    "min_opening_mass": -5.0,
    "min_valid_mass": 0.4,
    "readouts": (Readout.DIRECT, Readout.AFTER_CRITIQUE),
}


@pytest.mark.parametrize("field", CHANGES)
def test_the_hash_changes_with_every_field(field: str) -> None:
    template = builtin("embedded/pointwise")
    assert replace(template, **{field: CHANGES[field]}).hash != template.hash


def test_there_is_no_field_that_these_tests_forget() -> None:
    fields = set(Template.__dataclass_fields__) - {"hash"}
    assert fields == set(CHANGES)


@pytest.mark.parametrize(
    "answer",
    [Answer("9", ("0",), 0.0), Answer("0", ("zero",), 0.0), Answer("0", ("0",), 9.0)],
    ids=["label", "wording", "score"],
)
def test_the_hash_changes_with_every_part_of_an_answer(answer: Answer) -> None:
    template = builtin("embedded/pointwise")
    assert template.answers[0] == Answer("0", ("0",), 0.0)
    assert replace(template, answers=(answer, *template.answers[1:])).hash != template.hash


def test_the_hash_is_a_sha256_that_does_not_depend_on_the_process() -> None:
    template = builtin("embedded/pointwise")
    assert replace(template).hash == template.hash
    assert len(bytes.fromhex(template.hash)) == 32


# Tables -------------------------------------------------------------------------------------------

SOUND = """
[[template]]
name = "my/pointwise"
version = 1
kind = "pointwise"
text = "[{prompt}] {rubric} [{candidate}]"
opening = "Score: "
scores = { lowest = 1, highest = 5 }
terminators = ["."]
"""
SOUND_PAIR = """
[[template]]
name = "my/pairwise"
version = 3
kind = "pairwise"
text = "[{prompt}] [{first}] [{second}]"
opening = ""
terminators = []
readouts = ["direct", "after-critique"]
min_valid_mass = 0.25

[template.verdicts]
first = ["A", "[A]"]
second = ["B"]
tie = ["C"]
"""


def test_a_sound_table_is_read_as_it_stands() -> None:
    pointwise, pairwise = parse_templates(SOUND + SOUND_PAIR)
    assert (pointwise.name, pointwise.version, pointwise.kind) == (
        "my/pointwise",
        1,
        Kind.POINTWISE,
    )
    assert pointwise.slots == {"prompt", "rubric", "candidate"}
    assert pointwise.scores == (1, 2, 3, 4, 5)
    assert pointwise.readouts == (Readout.DIRECT,)
    assert pairwise.answers == (
        Answer("first", ("A", "[A]")),
        Answer("second", ("B",)),
        Answer("tie", ("C",)),
    )
    assert pairwise.readouts == (Readout.DIRECT, Readout.AFTER_CRITIQUE)
    assert pairwise.min_valid_mass == 0.25


def refused(source: str) -> str:
    with pytest.raises(ValueError) as error:
        list(parse_templates(source))
    return str(error.value)


@pytest.mark.parametrize(
    ("line", "replacement"),
    [
        ("version = 1", ""),
        ('kind = "pointwise"', ""),
        ('kind = "pointwise"', 'kind = "listwise"'),
        ('kind = "pointwise"', 'kind = "pairwise"'),
        ('opening = "Score: "', ""),
        ('terminators = ["."]', ""),
        ("scores = { lowest = 1, highest = 5 }", ""),
        ("scores = { lowest = 1, highest = 5 }", "scores = { lowest = 1 }"),
        ("scores = { lowest = 1, highest = 5 }", "scores = { low = 1, highest = 5 }"),
        ("scores = { lowest = 1, highest = 5 }", "scores = 5"),
        ("scores = { lowest = 1, highest = 5 }", 'scores = { lowest = "1", highest = 5 }'),
        ("scores = { lowest = 1, highest = 5 }", "scores = { lowest = 5, highest = 1 }"),
        ('text = "[{prompt}] {rubric} [{candidate}]"', ""),
        ('text = "[{prompt}] {rubric} [{candidate}]"', "text = 7"),
        ('text = "[{prompt}] {rubric} [{candidate}]"', 'text = "[{prompt}]"'),
        ('text = "[{prompt}] {rubric} [{candidate}]"', 'text = "[{candidate}]"'),
        ('text = "[{prompt}] {rubric} [{candidate}]"', 'text = "{prompt}{candidate}{first}"'),
        ('terminators = ["."]', 'terminators = ["."]\nreadouts = ["telepathy"]'),
        ('terminators = ["."]', 'terminators = ["."]\ntypo = 1'),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_by_name(line: str, replacement: str) -> None:
    assert line in SOUND
    assert "my/pointwise" in refused(SOUND.replace(line, replacement))


@pytest.mark.parametrize(
    ("line", "replacement"),
    [
        ('tie = ["C"]', ""),
        ('tie = ["C"]', 'tie = ["C"]\ndraw = ["D"]'),
        ('tie = ["C"]', "tie = []"),
        ('tie = ["C"]', 'tie = "Neither is better"'),
    ],
    ids=["no tie", "a fourth", "no wording", "a text in the place of a list"],
)
def test_verdicts_that_make_no_sense_are_refused_by_name(line: str, replacement: str) -> None:
    assert line in SOUND_PAIR
    assert "my/pairwise" in refused(SOUND_PAIR.replace(line, replacement))


def test_a_table_without_a_name_is_refused_like_any_other() -> None:
    assert refused(SOUND.replace('name = "my/pointwise"', ""))


def test_a_file_without_templates_is_refused() -> None:
    assert refused("title = 'nothing here'")


def test_what_is_no_toml_is_refused() -> None:
    assert refused("[[template]")
