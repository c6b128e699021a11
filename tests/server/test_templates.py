"""Templates: the published prompts to the byte, slots, hashes, and tables that make no sense."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.template_files import parse
from adjudge_server.template_sets import set_names, templates_of
from adjudge_server.templates import (
    SLOTS,
    Answer,
    Kind,
    Readout,
    RewardKind,
    Template,
    VerdictPlace,
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


def every_template() -> list[Template]:
    return [template for name in set_names() for template in templates_of(name)]


def builtin(name: str) -> Template:
    (found,) = [template for template in every_template() if template.name == name]
    return found


@pytest.mark.parametrize("critic", ["embedded", "llava-critic"])
def test_the_prompts_are_the_published_ones_byte_for_byte(critic: str) -> None:
    pointwise = builtin(f"{critic}/pointwise").render({"prompt": QUESTION, "candidate": SEVEN})
    assert pointwise.text == POINTWISE
    values = {"prompt": QUESTION, "first": CROSS, "second": SEVEN}
    assert builtin(f"{critic}/pairwise").render(values).text == PAIRWISE


def test_the_prompt_of_the_model_card_differs_by_one_word_and_the_last_space() -> None:
    values = {"prompt": QUESTION, "candidate": SEVEN}
    published = POINTWISE.replace("of the answer provided", "of answer answers provided") + " "
    assert builtin("llava-critic/pointwise-card").render(values).text == published


# Of the texts, slots and all, as they were read in the sources that the TOML files name.
TEXTS = {
    "llava-critic/pointwise-card": "53e3ee4f32d75d6f8112534880621f9a",
    "llava-critic/pointwise-reference": "afe7fdc0a52ccf4c09ca877e0d23de0e",
    "llava-critic/caption": "db5c7c823d1db0d30cc6715b3a2172c2",
    "llava-critic/relative-reference": "60356f3b22b27a650f033f591c04876d",
    "llava-critic/relative": "0c09a4fd884d7006f207b536be04a902",
    "llava-critic/yes-no": "959f264296778509418814c69ab132cd",
    "llava-critic-r1/pairwise": "13e1ab33bcbca1b4c7137577d156739b",
    "r1-reward/pairwise": "412d707fb5fc79d9f1e2832598e31d69",
    "unified-reward/pointwise": "845e178c252d176db0ac851e87bd649e",
    "unified-reward/pairwise": "fd1f49c369a8e4bb745c1d04d834da39",
    "unified-reward-qwen/pointwise": "6d76fa922302086db12c16af75b084ee",
    "unified-reward-qwen/pairwise": "fd1f49c369a8e4bb745c1d04d834da39",
    "unified-reward-think/pairwise": "0a628dc3584ab750fd07090e32210a17",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_still_the_one_of_its_source(name: str) -> None:
    assert hashlib.sha256(builtin(name).text.encode()).hexdigest()[:32] == TEXTS[name]


def test_there_is_no_text_that_these_tests_forget() -> None:
    seed = {f"{c}/{k}" for c in ("embedded", "llava-critic") for k in ("pointwise", "pairwise")}
    assert {t.name for t in every_template()} == seed | set(TEXTS)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("llava-critic/caption", 'the rate number at last after "Final Score:".'),
        ("llava-critic/relative-reference", "does not affect your judgment.\n\n"),
        ("llava-critic/relative", "[End of Assistant 2]\n\n[System]\n"),
        ("llava-critic/yes-no", '"? Please answer yes or no.'),
        ("llava-critic-r1/pairwise", "of the task.You FIRST think about the reasoning process"),
        ("r1-reward/pairwise", "</think><answer>1/2</answer>"),
        ("unified-reward/pointwise", "]\nResponse: [{candidate}]\n"),
        ("unified-reward-qwen/pointwise", "]  \n            Response: [{candidate}]\n            "),
        ("unified-reward-think/pairwise", "\nAnswer 1: 9+8+9+6=32\nAnswer 2: 7+7+8+7=29\n</think>"),
        (
            "unified-reward/pairwise",
            "'Answer 2 is better.'\n\nQuestion: {prompt}\nAnswer 1: {first}",
        ),
    ],
)
def test_the_seams_of_the_sources_are_kept(name: str, end: str) -> None:
    assert end in builtin(name).text
    assert not builtin("llava-critic/caption").text.endswith("\n")
    assert "background. \n" in builtin("llava-critic/caption").text
    assert builtin("llava-critic-r1/pairwise").text.startswith(" You are")


def test_builtin_templates_have_names_and_hashes_of_their_own() -> None:
    templates = every_template()
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


def test_two_relative_scores_say_who_is_better() -> None:
    first, second, tie = builtin("llava-critic/relative").answers
    assert len(first.forms) == len(second.forms) == 45 and len(tie.forms) == 10
    assert all(int(a) > int(b) for a, b in map(str.split, first.forms))
    assert all(int(a) < int(b) for a, b in map(str.split, second.forms))
    assert "1 10" in second.forms and "10 10" in tie.forms


@pytest.mark.parametrize("template", every_template(), ids=lambda t: t.name)
def test_who_thinks_first_is_read_after_it_and_all_others_either_way(template: Template) -> None:
    either = {Readout.DIRECT, Readout.AFTER_CRITIQUE}
    assert set(template.readouts) == ({Readout.AFTER_CRITIQUE} if template.after else either)


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
    "readouts": (Readout.DIRECT,),
    "other_openings": ("Rating: ",),
    "after": "</think>",
    "verdict": VerdictPlace.LAST,
    "reward": RewardKind.LOG_ODDS,
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
readouts = ["after-critique"]
other_openings = ["Better: "]
after = "</think>"
verdict = "last"
min_valid_mass = 0.25

[template.verdicts]
first = ["A", "[A]"]
second = ["B"]
tie = ["C"]
"""


def test_a_sound_table_is_read_as_it_stands() -> None:
    file = parse('models = ["*mine*"]\nnot_models = ["*mine-2*"]' + SOUND + SOUND_PAIR)
    assert (file.models, file.not_models) == (("*mine*",), ("*mine-2*",))
    pointwise, pairwise = file.templates
    assert (pointwise.name, pointwise.version, pointwise.kind) == (
        "my/pointwise",
        1,
        Kind.POINTWISE,
    )
    assert pointwise.slots == {"prompt", "rubric", "candidate"}
    assert pointwise.scores == (1, 2, 3, 4, 5)
    assert pointwise.readouts == (Readout.DIRECT, Readout.AFTER_CRITIQUE)
    assert (pointwise.openings, pointwise.after) == (("Score: ",), "")
    assert (pointwise.verdict, pointwise.reward) == (VerdictPlace.FIRST, RewardKind.EXPECTED)
    assert pairwise.answers == (
        Answer("first", ("A", "[A]")),
        Answer("second", ("B",)),
        Answer("tie", ("C",)),
    )
    assert pairwise.readouts == (Readout.AFTER_CRITIQUE,)
    assert pairwise.openings == ("", "Better: ")
    assert (pairwise.after, pairwise.verdict) == ("</think>", VerdictPlace.LAST)
    assert pairwise.min_valid_mass == 0.25


def refused(source: str) -> str:
    with pytest.raises(ValueError) as error:
        parse(source)
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
        ('text = "[{prompt}] {rubric} [{candidate}]"', 'text = "{prompt}{candidate}{first}"'),
        ('terminators = ["."]', 'terminators = ["."]\nreadouts = ["telepathy"]'),
        ('terminators = ["."]', 'terminators = ["."]\ntypo = 1'),
        ('terminators = ["."]', 'terminators = ["."]\nother_openings = "Rating: "'),
        ('terminators = ["."]', 'terminators = ["."]\nother_openings = ["Score: "]'),
        ('terminators = ["."]', 'terminators = ["."]\nverdict = "middle"'),
        ('terminators = ["."]', 'terminators = ["."]\nreward = "log-odds"'),
        ('terminators = ["."]', 'terminators = ["."]\nreward = "points"'),
        ('terminators = ["."]', 'terminators = ["."]\nafter = "</think>"'),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_by_name(line: str, replacement: str) -> None:
    assert line in SOUND
    assert "my/pointwise" in refused(SOUND.replace(line, replacement))


@pytest.mark.parametrize(
    ("line", "replacement"),
    [
        ('second = ["B"]', ""),
        ('tie = ["C"]', 'tie = ["C"]\ndraw = ["D"]'),
        ('tie = ["C"]', "tie = []"),
        ('tie = ["C"]', 'tie = "Neither is better"'),
    ],
    ids=["no second", "a fourth", "no wording", "a text in the place of a list"],
)
def test_verdicts_that_make_no_sense_are_refused_by_name(line: str, replacement: str) -> None:
    assert line in SOUND_PAIR
    assert "my/pairwise" in refused(SOUND_PAIR.replace(line, replacement))


def test_a_critic_need_not_know_ties() -> None:
    (template,) = parse(SOUND_PAIR.replace('tie = ["C"]', "")).templates
    assert [answer.label for answer in template.answers] == ["first", "second"]


def test_a_template_need_not_have_a_place_for_the_prompt() -> None:
    (template,) = parse(SOUND.replace("[{prompt}] ", "")).templates
    assert template.slots == {"rubric", "candidate"}


VERSION, SCORES = "version = 1", "scores = { lowest = 1, highest = 5 }"
NAME, TEXT = 'name = "my/pointwise"', 'text = "[{prompt}] {rubric} [{candidate}]"'
TERMINATORS = 'terminators = ["."]'
HUGE = f"1{400 * '0'}"
no_numbers = ["nan", "inf", "-inf", '"0.5"', "true", "[0.5]", "1979-05-27", HUGE, f"-{HUGE}"]
no_integers = ["true", "1.5", "1.0", '"1"', "inf", "nan", "[1]", HUGE]


@pytest.mark.parametrize(
    ("key", "line", "replacement"),
    [
        *(("version", VERSION, f"version = {v}") for v in [*no_integers, "0", "-1", "2147483648"]),
        *(
            ("min_valid_mass", VERSION, f"{VERSION}\nmin_valid_mass = {v}")
            for v in [*no_numbers, "1.1", "-0.1", "50"]
        ),
        *(
            ("min_opening_mass", VERSION, f"{VERSION}\nmin_opening_mass = {v}")
            for v in [*no_numbers, "0.1", "4"]
        ),
        *(("lowest", SCORES, SCORES.replace("1", v)) for v in no_integers),
        *(("highest", SCORES, SCORES.replace("5", v)) for v in no_integers),
        ("lowest", SCORES, "scores = { highest = 5 }"),
        ("highest", SCORES, "scores = { lowest = 1 }"),
        ("step", SCORES, "scores = { lowest = 1, highest = 5, step = 2 }"),
        *(("scores", SCORES, f"scores = {v}") for v in ["5", "[1, 5]", '"1-5"', "true"]),
        *(("terminators", TERMINATORS, f"terminators = {v}") for v in ['[""]', '[".", ""]']),
        ("other_openings", VERSION, f"{VERSION}\nother_openings = [7]"),
        ("readouts", VERSION, f"{VERSION}\nreadouts = []"),
        ("kind", 'kind = "pointwise"', 'kind = ["pointwise"]'),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_template_and_key(
    key: str, line: str, replacement: str
) -> None:
    assert line in SOUND
    template, told = refused(SOUND.replace(line, replacement)).split(": ", 1)
    assert template == "template 'my/pointwise'"
    assert key in told


@pytest.mark.parametrize("name", ['""', '" "', r'"a\nb"', "7"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    assert ": name: " in refused(SOUND.replace(NAME, f"name = {name}"))


@pytest.mark.parametrize("wordings", ['[""]', '["B", ""]', "[]", '"B"', "[7]"])
def test_a_wording_that_says_nothing_is_refused_by_answer(wordings: str) -> None:
    told = refused(SOUND_PAIR.replace('second = ["B"]', f"second = {wordings}"))
    assert told.startswith("template 'my/pairwise': verdicts: second: ")


words = st.from_regex(r"[A-Za-z_]\w{0,9}", fullmatch=True).filter(lambda word: word not in SLOTS)


@settings(deadline=None)
@given(word=words, around=st.sampled_from(["{} ", " {}", "a{}b", "[{}]\n", '"{}"']))
def test_a_word_in_braces_that_is_no_slot_is_refused_unless_its_braces_are_doubled(
    word: str, around: str
) -> None:
    def source(written: str) -> str:
        text = json.dumps(around.replace("{}", written) + "{candidate}", ensure_ascii=False)
        return SOUND.replace(TEXT, f"text = {text}")

    told = refused(source(f"{{{word}}}"))
    assert told.startswith(f"template 'my/pointwise': text: {{{word}}} is no slot")
    (template,) = parse(source(f"{{{{{word}}}}}")).templates
    expected = around.replace("{}", f"{{{word}}}") + "7"
    assert template.render({"candidate": "7"}).text == expected


@pytest.mark.parametrize("braces", [r"\boxed{}", '{"score": 5}', "{ }", "{1}", "{{", "}}", "{{}}"])
def test_other_braces_stand_for_themselves(braces: str) -> None:
    source = SOUND.replace(TEXT, f"text = '{braces} {{{{candidate}}}}'")
    (template,) = parse(source).templates
    assert template.render({"candidate": "7"}).text == f"{braces} {{7}}"


@pytest.mark.parametrize("line", ["title = 1", "models = 7", "models = [7]", "not_models = ''"])
def test_what_stands_outside_of_the_tables_is_looked_at(line: str) -> None:
    assert line.partition(" ")[0] in refused(f"{line}\n{SOUND}")


def test_a_table_without_a_name_is_refused_like_any_other() -> None:
    assert refused(SOUND.replace('name = "my/pointwise"', ""))


def test_a_file_without_templates_is_refused() -> None:
    assert refused("title = 'nothing here'")


def test_what_is_no_toml_is_refused() -> None:
    assert refused("[[template]")
