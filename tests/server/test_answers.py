"""The answer tree against its definition: one continuation at a time, each in a pass of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adjudge_server.answers import answer_tree
from adjudge_server.content import EncodedImage
from adjudge_server.critic import Query
from adjudge_server.critics import llava_loading
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.templates import Template, builtin_templates, parse_templates
from adjudge_server.tokenization import TextTokenizer
from tests.conftest import SEVEN
from tests.server import checkpoints, questions

TURN = "assistant\n"
TOKENIZERS = {
    "embedded": checkpoints.embedded_tokenizer,
    "qwen": checkpoints.qwen_tokenizer,
}
TOLERANCES = {"float64": 1e-9, "float32": 5e-5}


@pytest.fixture(scope="module", params=TOKENIZERS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return checkpoints.write_checkpoint(folder, TOKENIZERS[request.param](), grids=[[56, 56]])


@pytest.fixture(scope="module", params=TOLERANCES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def critic(directory: Path, dtype: str) -> LlavaOnevisionCritic:
    return llava_loading.load(
        directory, name="tiny", device="cpu", dtype=dtype, max_input_tokens=4096
    )


class Naive:
    """The definition in `answers.py`, computed the slow way.

    Each continuation is tokenised as part of the whole text of the critic's turn and gets a forward
    pass of its own: no cache, no mask, no packing, no tree.
    """

    def __init__(self, critic: LlavaOnevisionCritic, item: PreparedPrompt) -> None:
        self._critic = critic
        self._item = item
        self._tokenizer = critic._head._tokenizer
        with torch.inference_mode():
            self._embed = critic._embed([item])

    def continuation(self, text: str, *, after: str) -> list[int]:
        encode = self._tokenizer.encode
        return encode(TURN + after + text)[len(encode(TURN + after)) :]

    @torch.inference_mode()
    def log_prob(self, before: list[int], tokens: list[int]) -> float:
        """Of tokens, given the prompt and what the critic has said before."""
        token_ids = (*self._item.token_ids, *before, *tokens)
        embedded = self._embed(replace(self._item, token_ids=token_ids), len(token_ids))
        hidden = self._critic.decoder._language(inputs_embeds=embedded[None]).last_hidden_state[0]
        first = len(self._item.token_ids) + len(before) - 1
        rows = hidden[first : first + len(tokens)]
        logits = self._critic._head._head(rows)[:, : self._tokenizer.size]
        log_probs = torch.log_softmax(logits.double(), dim=-1)
        return sum(float(log_probs[i, token]) for i, token in enumerate(tokens))

    def answers(self, template: Template) -> list[float]:
        opening = self.continuation(template.opening, after="")
        forms = [form for answer in template.answers for form in answer.forms]
        return [
            float(np.logaddexp.reduce([self.form(template, opening, f, forms) for f in a.forms]))
            for a in template.answers
        ]

    def form(self, template: Template, opening: list[int], form: str, forms: list[str]) -> float:
        tokens = self.continuation(form, after=template.opening)
        extended = any(
            self.continuation(other, after=template.opening)[: len(tokens)] == tokens
            for other in forms
            if other != form
        )
        if not extended:
            return self.log_prob(opening, tokens)
        end = self._tokenizer.added["<|im_end|>"]
        following = {
            self.continuation(t, after=template.opening + form)[0] for t in template.terminators
        }
        return float(
            np.logaddexp.reduce(
                [self.log_prob(opening, [*tokens, t]) for t in sorted({*following, end})]
            )
        )


def queries(critic: LlavaOnevisionCritic) -> list[Query]:
    seven = EncodedImage(SEVEN.read_bytes())
    return [
        questions.score_query(critic.card, "What is this?", '"A seven."', seven),
        questions.pair_query(critic.card, "What is this?", "7", "A cross, I think.", seven),
    ]


def test_the_tree_equals_one_continuation_at_a_time(
    critic: LlavaOnevisionCritic, dtype: str
) -> None:
    for query in queries(critic):
        (item,) = critic.prepare([query])
        assert isinstance(item, PreparedPrompt)
        (reading,) = critic.forward([item])
        naive = Naive(critic, item)
        opening = naive.continuation(query.template.opening, after="")
        difference = np.abs(reading.answer_log_probs - naive.answers(query.template)).max()
        assert difference <= TOLERANCES[dtype]
        assert abs(reading.opening_mass - naive.log_prob([], opening)) <= TOLERANCES[dtype]
        assert len(np.unique(reading.answer_log_probs)) == len(query.template.answers)


def test_all_101_scores_cost_ten_positions_where_each_digit_is_a_token() -> None:
    tokenizer = TextTokenizer(checkpoints.qwen_tokenizer())
    template = next(t for t in builtin_templates() if t.name == "embedded/pointwise")
    tree = answer_tree(template, tokenizer.encode, TURN, tokenizer.added["<|im_end|>"])
    opening = tokenizer.encode(TURN + template.opening)[len(tokenizer.encode(TURN)) :]
    digits = {tokenizer.encode(str(d))[0] for d in range(1, 10)}
    beyond = tree.tokens[len(opening) :]
    assert list(tree.tokens[: len(opening)]) == opening
    assert len(beyond) == 10  # the first digits 1 to 9, and the zero of 10
    assert set(beyond[:9]) == digits
    assert tree.num_answers == 101


def template(**changes: object) -> Template:
    fields = {
        "name": "t",
        "version": 1,
        "kind": "pairwise",
        "text": "{prompt}{first}{second}",
        "opening": "Better: ",
        "terminators": ["."],
        "verdicts": {"first": ["A"], "second": ["B"], "tie": ["C"]},
    } | changes
    lines = [f"{k} = {v!r}" for k, v in fields.items() if k != "verdicts"]
    verdicts = [f"{k} = {v!r}" for k, v in fields["verdicts"].items()]  # type: ignore[attr-defined]
    source = "\n".join(["[[template]]", *lines, "[template.verdicts]", *verdicts])
    (parsed,) = parse_templates(source)
    return parsed


def by_character(text: str) -> list[int]:
    return [ord(character) for character in text]


def test_wordings_of_one_answer_add_up() -> None:
    merged = template(verdicts={"first": ["A", "a"], "second": ["B"], "tie": ["C"]})
    tree = answer_tree(merged, by_character, TURN, end_of_turn=0)
    probabilities = {"A": 0.25, "a": 0.25, "B": 0.3, "C": 0.2}
    values = np.zeros(len(tree.reads))
    for i, (row, token) in enumerate(tree.reads):
        if row == len(merged.opening):
            values[i] = np.log(probabilities[chr(token)])
    assert np.allclose(np.exp(tree.answer_log_probs(values)), [0.5, 0.3, 0.2])
    assert tree.opening_mass(values) == 0


def test_an_extended_answer_needs_a_terminator_and_others_need_nothing() -> None:
    nested = template(verdicts={"first": ["A"], "second": ["AB"], "tie": ["C"]})
    tree = answer_tree(nested, by_character, TURN, end_of_turn=0)
    terminators = [w.terminators for w in tree.wordings]
    assert [len(t) for t in terminators] == [2, 0, 0]  # "." and the end of the turn
    assert {tree.reads[i][1] for i in terminators[0]} == {ord("."), 0}
    assert tree.tokens[len(nested.opening) :] == (ord("A"),)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"verdicts": {"first": ["A"], "second": ["A"], "tie": ["C"]}}, "same tokens"),
        ({"verdicts": {"first": ["A"], "second": ["A."], "tie": ["C"]}}, "also extends"),
    ],
)
def test_ambiguous_answers_are_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        answer_tree(template(**changes), by_character, TURN, end_of_turn=0)


def test_a_tokenizer_that_merges_across_the_opening_is_refused() -> None:
    def merging(text: str) -> list[int]:
        return by_character(text.replace(" A", "@").replace(" B", "#"))

    with pytest.raises(ValueError, match="merges"):
        answer_tree(template(), merging, TURN, end_of_turn=0)
