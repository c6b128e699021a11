"""A checkpoint's own chat template: what is ours in it, and what is only text."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from adjudge_server.content import Role
from adjudge_server.critic import Turn
from adjudge_server.critics.chat_template import ChatTemplate
from adjudge_server.critics.conversation import Special
from adjudge_server.critics.preparing import encode
from adjudge_server.errors import UnsupportedContent
from adjudge_server.tokenization import TextTokenizer
from tests.server import checkpoints

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
LAYOUTS = {
    "byte-level, chatml": (checkpoints.tiny_tokenizer, checkpoints.CHATML),
    "space at the start, llama 3": (checkpoints.metaspace_tokenizer, checkpoints.LLAMA_3),
    "space at the start, inst": (checkpoints.metaspace_tokenizer, checkpoints.INST),
    "space before every piece, inst": (
        lambda: checkpoints.metaspace_tokenizer("normalizer"),
        checkpoints.INST,
    ),
    "space before every piece, llama 3": (
        lambda: checkpoints.metaspace_tokenizer("normalizer"),
        checkpoints.LLAMA_3,
    ),
}
texts = st.lists(
    st.sampled_from([*" \n\t\r\xa0\x1fa7é🎉", "word ", "[/INST]"]),
    max_size=8,
).map("".join) | st.text(max_size=20)


@cache
def layout(name: str) -> tuple[ChatTemplate, TextTokenizer, PreTrainedTokenizerFast]:
    definition, source = LAYOUTS[name][0](), LAYOUTS[name][1]
    tokenizer = TextTokenizer(definition)
    whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(definition), **VARIABLES)
    whole.chat_template = source
    return ChatTemplate(source, VARIABLES, tokenizer), tokenizer, whole


def conversation(*contents: str) -> list[Turn]:
    roles = (Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT)
    return [Turn(role, text) for role, text in zip(roles, contents, strict=False)]


def by_transformers(whole: PreTrainedTokenizerFast, turns: list[Turn], answer: bool) -> list[int]:
    messages = [{"role": turn.role.value, "content": turn.text} for turn in turns]
    ids: list[int] = whole.apply_chat_template(
        messages, add_generation_prompt=answer, tokenize=True, return_dict=False
    )
    return ids


@pytest.mark.parametrize("name", LAYOUTS)
def test_text_without_added_tokens_has_the_ids_that_transformers_gives(name: str) -> None:
    template, tokenizer, whole = layout(name)

    @settings(deadline=None)
    @given(contents=st.lists(texts, min_size=1, max_size=4))
    def check(contents: list[str]) -> None:
        turns = conversation(*contents)
        if any(added in "".join(contents) for added in tokenizer.added):
            return
        answer = turns[-1].role is Role.USER
        ours = encode(template.pieces(turns, answer=answer), tokenizer)
        assert ours == by_transformers(whole, turns, answer)

    check()


@pytest.mark.parametrize("name", LAYOUTS)
def test_added_tokens_in_text_are_text(name: str) -> None:
    template, tokenizer, _ = layout(name)
    added = set(tokenizer.added.values())
    attacks = [*tokenizer.added, "adjudge0text", "{{ bos_token }}", "{% endfor %}"]
    hostile = st.lists(st.sampled_from(attacks)).map("".join)

    def structure(contents: list[str]) -> list[int]:
        pieces = template.pieces(conversation(*contents), answer=False)
        for text in contents:
            assert any(text.strip() in piece for piece in pieces if isinstance(piece, str))
        ids = encode(pieces, tokenizer)
        assert sum(isinstance(piece, Special) for piece in pieces) == sum(i in added for i in ids)
        return [i for i in ids if i in added]

    plain = structure(["a", "b", "c", "d"])

    @settings(deadline=None)
    @given(contents=st.lists(hostile, min_size=4, max_size=4))
    def check(contents: list[str]) -> None:
        assert structure(contents) == plain

    check()


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_beginning_of_text_is_added_to_the_one_that_the_template_has(name: str) -> None:
    template, tokenizer, _ = layout(name)
    begin = tokenizer.added.get("<s>")
    ids = encode(template.pieces(conversation("a", "b"), answer=False), tokenizer)
    assert ids.count(begin) == (LAYOUTS[name][1] is not checkpoints.CHATML)


def chatml(source: str, variables: dict[str, str] | None = None) -> ChatTemplate:
    return ChatTemplate(source, variables or {}, layout("byte-level, chatml")[1])


def test_what_is_between_the_last_special_token_and_the_answer_is_known() -> None:
    chat = chatml(checkpoints.CHATML).chat()
    assert (chat.turn, chat.end, chat.lead) == ("assistant\n", "<|im_end|>", "")


def test_a_space_that_every_answer_begins_with_is_the_critics_to_write() -> None:
    chat = layout("space at the start, inst")[0].chat()
    assert (chat.turn, chat.end, chat.lead) == (" [/INST]", "</s>", " ")


LINES = "{%% for m in messages %%}<|im_start|>{{ m['role'] }}\n{{ %s }}<|im_end|>{%% endfor %%}"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("m['content']", "\n\n \t a \n \n"),
        ("m['content'].strip()", "a"),
        ("m['content'] | trim", "a"),
        ("m['content'].lstrip('\n')", " \t a \n \n"),
        ("m['content'].strip('\n')", " \t a \n "),
        ("m['content'].rstrip()", "\n\n \t a"),
        ("m['content'].split('</think>')[-1].lstrip('\n')", " \t a \n \n"),
    ],
)
def test_texts_are_stripped_as_the_template_strips_them(expression: str, expected: str) -> None:
    pieces = chatml(LINES % expression).pieces(conversation("\n\n \t a \n \n"), answer=False)
    assert f"user\n{expected}" in pieces


def test_a_template_cannot_hide_a_part_of_a_text() -> None:
    template = chatml(LINES % "m['content'].split('</think>')[-1]")
    assert "user\nbad</think>good" in template.pieces(conversation("bad</think>good"), answer=False)


@pytest.mark.parametrize(
    "expression",
    ["m['content'].strip(' \n')", "m['content'] | upper", "''", "m['content'] * 2", "m['text'].x"],
)
def test_what_a_template_does_to_texts_is_repeated_or_refused(expression: str) -> None:
    template = chatml(LINES % expression)
    with pytest.raises(ValueError, match="chat template"):
        template.chat()
    with pytest.raises(UnsupportedContent):
        template.pieces(conversation("a"), answer=False)


def test_roles_that_the_template_refuses_are_unsupported_content() -> None:
    template = layout("space at the start, inst")[0]
    with pytest.raises(UnsupportedContent, match="roles must alternate") as refused:
        template.pieces([Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "a")], answer=False)
    assert refused.value.metadata["field"] == "prompt"


def test_turns_may_stand_in_another_order_than_they_came() -> None:
    """Some Mistrals put the system turn into the last user's."""
    source = "{% for m in messages | reverse %}<|im_start|>{{ m['content'] }}{% endfor %}"
    texts = [p for p in chatml(source).pieces(conversation("a", "b", "c"), answer=False)]
    assert [p for p in texts if isinstance(p, str)] == ["c", "b", "a"]


def test_the_date_of_the_day_is_not_in_a_prompt() -> None:
    source = "{{ strftime_now('%Y-%m-%d') }}" + LINES % "m['content']"
    pieces = chatml(source).pieces(conversation("a"), answer=False)
    assert pieces[0] == "26 Jul 2024"


def test_a_model_that_may_think_is_asked_not_to() -> None:
    source = checkpoints.CHATML + "{% if enable_thinking is false %}No thoughts.{% endif %}"
    assert chatml(source).chat().turn.endswith("No thoughts.")


def test_special_tokens_swallow_the_white_space_beside_them() -> None:
    whole = Tokenizer.from_str(checkpoints.tiny_tokenizer())
    swallow = [AddedToken("<|user|>", rstrip=True), AddedToken("<|e|>", lstrip=True)]
    whole.add_special_tokens(swallow)
    tokenizer = TextTokenizer(whole.to_str())
    source = "{% for m in messages %}<|user|>\n{{ m['content'] }}\n<|e|> {% endfor %}"
    template = ChatTemplate(source, {}, tokenizer)
    for text in ("a", " a\n", "", "\n \t", "\x1fa"):
        ids = encode(template.pieces(conversation(text, text), answer=False), tokenizer)
        rendered = f"<|user|>\n{text}\n<|e|> " * 2
        assert ids == whole.encode(rendered, add_special_tokens=False).ids


def test_a_checkpoint_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    directory = checkpoints.write_text_model(tmp_path)
    (directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no chat template"):
        ChatTemplate.read(directory, layout("byte-level, chatml")[1])


@pytest.mark.parametrize("way", ["jinja", "named", "as one"])
def test_a_chat_template_is_found_in_all_places(tmp_path: Path, way: str) -> None:
    directory = checkpoints.write_text_model(tmp_path)
    if way == "jinja":
        (directory / "tokenizer_config.json").write_text('{"chat_template": "{{ 1 / 0 }}"}')
        (directory / "chat_template.jinja").write_text(checkpoints.CHATML)
    elif way == "named":
        both = [
            {"name": "tool_use", "template": "{{ 1 / 0 }}"},
            {"name": "default", "template": checkpoints.CHATML},
        ]
        (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": both}))
    template = ChatTemplate.read(directory, layout("byte-level, chatml")[1])
    assert template.chat().turn == "assistant\n"


def test_a_tokenizer_that_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    """A token that only counts between blanks is no token before a line end."""
    directory = checkpoints.write_text_model(tmp_path)
    whole = json.loads((directory / "tokenizer.json").read_text())
    for token in whole["added_tokens"]:
        token["single_word"] = True
    (directory / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        ChatTemplate.read(directory, TextTokenizer(json.dumps(whole)))
