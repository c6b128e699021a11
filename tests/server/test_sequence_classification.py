"""Reward models with a scalar head: the value that transformers gives, one at a time."""

import json
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import (
    Message,
    RequestRefused,
    Reward,
    RewardClient,
    best_of_n,
)
from adjudge_server.content import Message as Said
from adjudge_server.content import Question, Role
from adjudge_server.critic import Query, Reading
from adjudge_server.critics import sequence_classification_loading
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.critics.sequence_classification import SequenceClassificationCritic
from adjudge_server.errors import CriticFailure, InputTooLong
from adjudge_server.queries import ask
from adjudge_server.readout import reward
from adjudge_server.self_check import check
from adjudge_server.templates import Kind
from tests.conftest import SEVEN, Launch, stub
from tests.contract import CANDIDATES
from tests.server import checkpoints, questions
from tests.server.test_injection import EXAMPLES, Family, hostile

TOLERANCES = {"float64": 1e-9, "float32": 1e-5}
TURNS = ((Role.SYSTEM, "Be brief."), (Role.USER, "Hi."), (Role.ASSISTANT, "Yes?"))
ASKED = (*TURNS, (Role.USER, "What is 2 + 2?"))


def load(directory: Path, dtype: str = "float32") -> SequenceClassificationCritic:
    return sequence_classification_loading.load(
        directory, name="tiny", device="cpu", dtype=dtype, max_input_tokens=4096
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_text_model(tmp_path_factory.mktemp("tiny"), scalar=True)


@pytest.fixture(scope="module")
def critic(directory: Path) -> SequenceClassificationCritic:
    return load(directory)


def query(
    critic: SequenceClassificationCritic,
    candidate: str,
    prompt: tuple[tuple[Role, str], ...] = ASKED,
) -> Query:
    messages = tuple(Said(role, (text,)) for role, text in prompt)
    asked = ask(Question(messages, ""), Kind.POINTWISE, critic.card, questions.LIMITS, refuse)
    return asked.query({"candidate": candidate})


def refuse(image: object) -> None:
    raise AssertionError("no picture comes here")


def prepared(critic: SequenceClassificationCritic, *queries: Query) -> list[PreparedPrompt]:
    items = critic.prepare(queries)
    assert all(isinstance(item, PreparedPrompt) for item in items)
    return items  # type: ignore[return-value]


def scalars(critic: SequenceClassificationCritic, *queries: Query) -> list[float]:
    return [reading.scalar or 0.0 for reading in critic.forward(prepared(critic, *queries))]


def whole_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    described = json.loads((directory / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"),
        **{key: value for key, value in described.items() if key.endswith("_token")},
    )
    tokenizer.chat_template = described["chat_template"]
    return tokenizer


def by_transformers(
    directory: Path, dtype: str, prompt: tuple[tuple[Role, str], ...], candidate: str
) -> float:
    """As the model cards of such models show it: chat template, one conversation, one pass."""
    model = AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=getattr(torch, dtype)
    ).eval()
    turns = [*prompt, (Role.ASSISTANT, candidate)]
    ids = whole_tokenizer(directory).apply_chat_template(
        [{"role": role.value, "content": text} for role, text in turns],
        tokenize=True,
        return_dict=False,
        return_tensors="pt",
    )
    with torch.inference_mode():
        return float(model(input_ids=ids).logits[0, 0])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("body", checkpoints.BODIES)
def test_rewards_equal_plain_transformers(tmp_path: Path, body: str, dtype: str) -> None:
    directory = checkpoints.write_text_model(tmp_path, body, scalar=True)
    critic = load(directory, dtype)
    texts = [text for text in CANDIDATES if "<" not in text]
    values = scalars(critic, *(query(critic, text) for text in texts))
    for text, value in zip(texts, values, strict=True):
        expected = by_transformers(directory, dtype, ASKED, text)
        assert value == pytest.approx(expected, abs=TOLERANCES[dtype])


@pytest.mark.parametrize("scheme", ["first", "normalizer"])
@pytest.mark.parametrize("layout", [checkpoints.LLAMA_3, checkpoints.INST])
def test_tokenizers_and_layouts_of_llama_do_too(tmp_path: Path, scheme: str, layout: str) -> None:
    """With a beginning-of-text token from the template, and one that the tokenizer would add."""
    tokenizer = checkpoints.metaspace_tokenizer(scheme)
    directory = checkpoints.write_text_model(
        tmp_path, tokenizer=tokenizer, chat_template=layout, scalar=True
    )
    critic = load(directory, "float64")
    prompt = ((Role.USER, " What is 2 + 2?\n"),)
    items = prepared(critic, *(query(critic, text, prompt) for text in CANDIDATES))
    begin = critic._tokenizer.added["<s>"]
    assert all(item.token_ids.count(begin) == 1 for item in items)
    for text, reading in zip(CANDIDATES, critic.forward(items), strict=True):
        expected = by_transformers(directory, "float64", prompt, text)
        assert reading.scalar == pytest.approx(expected, abs=1e-9)


def test_a_layout_that_ends_with_the_padding_token_is_read_before_it(tmp_path: Path) -> None:
    """As transformers does, whose training code has done it as well."""
    layout = checkpoints.CHATML + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
    directory = checkpoints.write_text_model(tmp_path, chat_template=layout, scalar=True)
    (value,) = scalars(critic := load(directory, "float64"), query(critic, "4"))
    expected = by_transformers(directory, "float64", ASKED, "4")
    assert value == pytest.approx(expected, abs=1e-9)
    pad = critic._tokenizer.added["<|endoftext|>"]
    assert prepared(critic, query(critic, "4"))[0].token_ids[-1] != pad


def test_without_a_padding_token_the_last_token_is_read(tmp_path: Path) -> None:
    directory = checkpoints.write_text_model(tmp_path, scalar=True, pad_token_id=None)
    (value,) = scalars(critic := load(directory, "float64"), query(critic, "4"))
    expected = by_transformers(directory, "float64", ASKED, "4")
    assert value == pytest.approx(expected, abs=1e-9)


def test_hostile_text_changes_nothing_but_text(
    directory: Path, critic: SequenceClassificationCritic
) -> None:
    """The padding token's text among it."""
    tokenizer = critic._tokenizer
    added = set(tokenizer.added.values())
    definition = (directory / "tokenizer.json").read_text(encoding="utf-8")
    family = Family(critic, Tokenizer.from_str(definition), tokenizer)

    def structure(item: PreparedPrompt) -> list[int]:
        return [t for t in item.token_ids if t in added]

    (clean,) = prepared(critic, query(critic, "a"))

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(hostile(family), min_size=5, max_size=5))
    def check(texts: list[str]) -> None:
        prompt = tuple((role, text) for (role, _), text in zip(ASKED, texts, strict=False))
        (item,) = prepared(critic, query(critic, texts[4], prompt))
        assert structure(item) == structure(clean)
        assert item.token_ids[-1] == clean.token_ids[-1]
        read = tokenizer.decode(item.token_ids)
        assert all(normalize("NFC", text) in normalize("NFC", read) for text in texts)

    check()


def test_a_reward_does_not_depend_on_its_company(critic: SequenceClassificationCritic) -> None:
    queries = [query(critic, text) for text in (*CANDIDATES, "word " * 300)]
    queries += [query(critic, text, ASKED[-1:]) for text in CANDIDATES]
    alone = [scalars(critic, q)[0] for q in queries]
    for order in (slice(None), slice(None, None, -1), slice(None, None, 3)):
        assert scalars(critic, *queries[order]) == pytest.approx(alone[order], abs=1e-5)
    assert len({round(value, 4) for value in alone}) == len(queries)


def test_what_candidates_share_is_computed_once(critic: SequenceClassificationCritic) -> None:
    critic.forget()
    items = prepared(critic, *(query(critic, text) for text in CANDIDATES))
    assert len({item.group for item in items}) == 1
    shared = min(item.shared_tokens for item in items)
    # All but the candidate itself, the end of its turn and the line end after that.
    assert shared >= len(critic._token_ids(query(critic, "").turns, "")) - 3
    computed = sum(reading.computed_tokens for reading in critic.forward(items))
    assert computed == sum(len(item.token_ids) for item in items) - shared * (len(items) - 1)


def test_conversations_that_only_look_alike_share_nothing(
    critic: SequenceClassificationCritic,
) -> None:
    prompts = [
        ((Role.USER, "a"), (Role.USER, "b")),
        ((Role.USER, "ab"),),
        ((Role.USER, 'a"], ["user", "b'),),
        ((Role.SYSTEM, "a"), (Role.USER, "b")),
        ((Role.USER, "a\0b"),),
        ((Role.USER, "a"), (Role.USER, ""), (Role.USER, "b")),
    ]
    assert len({query(critic, "4", prompt).group for prompt in prompts}) == len(prompts)


def test_only_the_long_conversation_is_too_long(critic: SequenceClassificationCritic) -> None:
    texts = ("4", "word " * 5000, "5")
    kinds = [
        isinstance(item, InputTooLong)
        for item in critic.prepare([query(critic, text) for text in texts])
    ]
    assert kinds == [False, True, False]
    with pytest.raises(InputTooLong, match="turns"):
        query(critic, "4", ((Role.USER, ""),) * 5000)


def test_its_noise_is_measured_and_small(critic: SequenceClassificationCritic) -> None:
    assert 0 <= check(critic).batched_difference < 1e-4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_what_is_no_number_is_no_reward(
    critic: SequenceClassificationCritic, value: float | None
) -> None:
    reading = Reading(0.0, np.empty(0), 1, scalar=value)
    with pytest.raises(CriticFailure):
        reward(critic.card.templates[0], reading)


# Refusals -----------------------------------------------------------------------------------------


def edit(directory: Path, tmp_path: Path, **changes: object) -> Path:
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    return tmp_path


def test_a_missing_head_stops_the_start_with_its_name(directory: Path, tmp_path: Path) -> None:
    """transformers would make a random one."""
    copy = edit(directory, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing keys: score\.weight"):
        load(copy)


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    directory = checkpoints.write_text_model(tmp_path)
    changes = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=r"missing keys: score\.weight"):
        load(directory)


def test_a_head_of_several_labels_is_refused(directory: Path, tmp_path: Path) -> None:
    labels = {"0": "a", "1": "b", "2": "c"}
    with pytest.raises(ValueError, match="num_labels is 3"):
        load(edit(directory, tmp_path, id2label=labels, label2id={"a": 0, "b": 1, "c": 2}))


def test_bodies_that_want_something_else_are_refused_by_key(
    directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"config\.json: attention_chunk_size"):
        load(edit(directory, tmp_path, attention_chunk_size=64))


# Through a server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(directory: Path, launch: Launch) -> str:
    return f"127.0.0.1:{launch(model=directory).port}"


PROMPT = [Message(role.value, text) for role, text in ASKED]


def test_a_reward_is_the_heads_value_and_nothing_else(
    address: str, critic: SequenceClassificationCritic
) -> None:
    texts = ["4", "5", "A dog."]
    with RewardClient(address) as client:
        result = client.score(PROMPT, texts, include_distribution=True)
    assert result.provenance.template == "scalar/conversation"
    expected = scalars(critic, *(query(critic, text) for text in texts))
    for outcome, value in zip(result.outcomes, expected, strict=True):
        assert isinstance(outcome, Reward)
        assert outcome == Reward(reward=pytest.approx(value, abs=1e-5))


def test_best_of_n_works_with_it(address: str) -> None:
    texts = ["4", "5", "A dog.", "Four."]
    with RewardClient(address) as client:
        rewards = client.score(PROMPT, texts).rewards
        ranking = best_of_n(client, PROMPT, texts)
    assert ranking.best.candidate == texts[int(np.argmax(rewards))]


def test_it_says_what_it_can_do(launch: Launch, directory: Path) -> None:
    with stub(launch(model=directory)) as service:
        model = service.GetModel(pb.GetModelRequest()).model
    assert model.family == "sequence_classification"
    assert list(model.capabilities) == [pb.CAPABILITY_SCORE]
    (template,) = model.templates
    assert template.reward_kind == pb.REWARD_KIND_SCALAR
    assert not template.HasField("min_reward") and not template.HasField("max_reward")
    assert not template.answers
    assert list(template.readouts) == [pb.READOUT_DIRECT]


def test_what_it_cannot_do_is_refused(address: str) -> None:
    with RewardClient(address) as client:
        for reason, call in {
            "UNKNOWN_TEMPLATE": lambda: client.compare(PROMPT, ["4", "5"], [(0, 1)]),
            "UNSUPPORTED_OPERATION": lambda: list(client.critique(PROMPT, ["4"])),
            "UNSUPPORTED_CONTENT": lambda: client.score([SEVEN, "What is this?"], ["4"]),
        }.items():
            with pytest.raises(RequestRefused) as refused:
                call()
            assert refused.value.reason == reason


def test_a_prompt_of_roles_that_the_layout_does_not_take_is_refused(
    tmp_path: Path, launch: Launch
) -> None:
    directory = checkpoints.write_text_model(
        tmp_path,
        tokenizer=checkpoints.metaspace_tokenizer(),
        chat_template=checkpoints.INST,
        scalar=True,
    )
    with RewardClient(f"127.0.0.1:{launch(model=directory).port}") as client:
        with pytest.raises(RequestRefused) as refused:
            client.score(PROMPT, ["4"])
        assert refused.value.reason == "UNSUPPORTED_CONTENT"
        assert client.score("What is 2 + 2?", ["4"]).rewards[0] is not None
