import base64
import io
from pathlib import Path

import numpy
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import Failure, Image, Message, Role
from adjudge_reranker.trainers.pictures import PictureReader
from adjudge_reranker.trainers.samples import Sample, after_thinking, grouped, read_sample
from tests.conftest import SEVEN

GREY = PIL.Image.new("L", (4, 4), 100)
WHITE = PIL.Image.new("L", (4, 4), 255)


def test_a_conversation_of_one_turn_is_the_same_question_as_its_plain_text() -> None:
    plain = read_sample("Why?", "So.")
    chat = read_sample(
        [{"role": "user", "content": "Why?"}], [{"role": "assistant", "content": "So."}]
    )
    assert plain == chat


def test_pictures_of_a_column_and_in_the_messages_are_the_same_question() -> None:
    inline = [{"type": "image", "image": GREY}, {"type": "text", "text": "Why?"}]
    empty = [{"type": "image", "text": None}, {"type": "text", "text": "Why?"}]
    expected = (Message.user(GREY, "Why?"),)
    for content, column in (("Why?", GREY), (empty, [GREY]), (inline, [GREY]), (inline, None)):
        sample = read_sample([{"role": "user", "content": content}], "So.", pictures=column)
        assert isinstance(sample, Sample)
        assert sample.prompt == expected


def test_every_form_of_a_picture_is_the_same_picture() -> None:
    data = SEVEN.read_bytes()
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    forms = [data, SEVEN, str(SEVEN), f"file://{SEVEN}", url, {"bytes": data, "path": None}]
    forms += [{"bytes": None, "path": str(SEVEN)}, {"url": url}, Image.open(SEVEN)]
    reader = PictureReader()
    assert {reader.picture(form).wire_digest for form in forms} == {Image.open(SEVEN).wire_digest}
    array = numpy.array(GREY)
    assert reader.column(array) == reader.column([GREY]) == reader.column(GREY)


def test_a_reader_does_not_take_a_new_object_for_an_old_one_at_the_same_place() -> None:
    reader = PictureReader()
    for shade in range(200):
        file = io.BytesIO()
        PIL.Image.new("L", (2, 2), shade).save(file, "PNG")
        assert reader.picture(file.getvalue()).source == file.getvalue()


@pytest.mark.parametrize("broken", ["http://localhost/a.png", "/no/such/file.png", "data:,x", b""])
def test_a_picture_that_cannot_be_read_fails_its_sample_alone(broken: object) -> None:
    sample = read_sample("Why?", "So.", pictures=[broken])
    assert isinstance(sample, Failure)
    assert sample.error.reason == "INVALID_REQUEST"


def test_what_is_no_prompt_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="prompt"):
        read_sample(7, "So.")  # type: ignore[arg-type]


def test_an_answer_that_cannot_be_sent_fails_its_sample_alone() -> None:
    assert isinstance(read_sample("Why?", "\ud800"), Failure)


def test_after_tools_the_last_turn_of_the_assistant_is_judged() -> None:
    completion = [
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
    ]
    sample = read_sample("2 + 2?", completion)
    assert isinstance(sample, Sample)
    assert sample.answer == ("It is 4.",)


def test_system_and_assistant_turns_keep_their_roles() -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]
    sample = read_sample([{"role": role, "content": text} for role, text in turns], "So.")
    assert isinstance(sample, Sample)
    assert [message.role for message in sample.prompt] == [Role(role) for role, _ in turns]


@given(st.text(), st.text().filter(lambda text: "</think>" not in text))
def test_what_follows_the_thinking_is_judged(thought: str, answer: str) -> None:
    assert after_thinking(f"<think>{thought}</think>{answer}") == answer.lstrip()
    assert after_thinking(f"{thought}</think>{answer}") == answer.lstrip()


def test_thinking_that_never_ends_answers_nothing() -> None:
    assert after_thinking("<think>Let me see") == ""
    assert after_thinking("Let me see") == "Let me see"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.sampled_from([None, "r"]))))
def test_groups_hold_each_sample_once_with_its_equals(
    rows: list[tuple[str, bool, str | None]],
) -> None:
    samples = [
        read_sample(prompt, str(index), pictures=GREY if grey else WHITE, reference=reference)
        for index, (prompt, grey, reference) in enumerate(rows)
    ]
    groups = grouped(samples)
    assert sorted(index for group in groups for index in group.indices) == list(range(len(rows)))
    assert len(groups) == len(set(rows))
    for group in groups:
        assert group.answers == tuple((str(index),) for index in group.indices)
        assert len({rows[index] for index in group.indices}) == 1


def test_paths_are_never_read_from_text(tmp_path: Path) -> None:
    sample = read_sample(str(SEVEN), str(SEVEN))
    assert isinstance(sample, Sample)
    assert sample.prompt == (Message.user(str(SEVEN)),)
