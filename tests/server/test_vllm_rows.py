"""The answer tree as requests: whatever vLLM writes, the tree's log-probabilities come together."""

import json
from math import exp, log, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.answers import AnswerTree, answer_tree
from adjudge_server.critics.vllm import rows
from adjudge_server.critics.vllm.choices import check_finished, weights_of
from adjudge_server.critics.vllm.rows import MOST_IDS, TreeRows, Walk, correction
from adjudge_server.template_sets import templates_of
from adjudge_server.tokenization import TextTokenizer
from tests.server.checkpoints import embedded_tokenizer

TOKENIZER = TextTokenizer(embedded_tokenizer())
END = TOKENIZER.added["<|im_end|>"]
TREES = [
    answer_tree(template, TOKENIZER.encode, "assistant\n", END)
    for template in templates_of("embedded")
]
PADDING = range(TOKENIZER.size, TOKENIZER.size + 3)


def said(tree: AnswerTree, row: int, token: int) -> float:
    """What the model thinks of a token there: any number will do, if it is always the same."""
    return -1.0 - (31 * row + 17 * token) % 97 / 10


def walked(tree: AnswerTree, walk: Walk, writes: list[int]) -> list[tuple[int, rows.LogProbs]]:
    """A request's answer, by somebody who writes those tokens."""
    steps: list[tuple[int, rows.LogProbs]] = []
    row: int | None = walk.row
    for token in [*writes, *[walk.allowed[0]] * walk.steps][: walk.steps]:
        there = -1 if row is None else row
        steps.append((token, {i: said(tree, there, i) for i in walk.ids}))
        below = [k + 1 for k, p in enumerate(tree.parents) if p == row and tree.tokens[k] == token]
        row = below[0] if below else None
    return steps


@pytest.mark.parametrize("tree", TREES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_read_is_what_was_said_there_whatever_was_written(
    tree: AnswerTree, data: st.DataObject
) -> None:
    tree_rows = TreeRows(tree, PADDING)
    values = np.full(len(tree.reads), nan)
    waiting = [0]
    requests = 0
    while waiting:
        row = waiting.pop()
        for walk in tree_rows.walks(row):
            requests += 1
            assert len(walk.ids) <= MOST_IDS
            assert set(walk.allowed) <= set(walk.ids)
            writes = data.draw(st.lists(st.sampled_from(walk.allowed), max_size=walk.steps))
            read = tree_rows.follow(walk, walked(tree, walk, writes), values)
        waiting += tree_rows.next_rows(read)
    rows_there = {row for row, _ in tree.reads}
    assert requests <= len(rows_there)
    for (row, token), value in zip(tree.reads, values, strict=True):
        shift = correction([said(tree, row, i) for i in PADDING])
        assert value == pytest.approx(said(tree, row, token) + shift, abs=1e-12)


@pytest.mark.parametrize("tree", TREES)
def test_who_writes_in_the_format_is_asked_once_for_the_way_there(tree: AnswerTree) -> None:
    tree_rows = TreeRows(tree, ())
    deepest = max(range(len(tree.tokens) + 1), key=lambda row: len(tree_rows.path(row)))
    (walk,) = tree_rows.walks(0)
    values = np.full(len(tree.reads), nan)
    read = tree_rows.follow(walk, walked(tree, walk, tree_rows.path(deepest)), values)
    assert read[-1] == deepest
    assert len(read) == len(tree_rows.path(deepest)) + 1


def test_who_leaves_the_tree_is_let_write_less_until_it_is_tried_again() -> None:
    tree = TREES[0]
    tree_rows = TreeRows(tree, ())
    values = np.full(len(tree.reads), nan)

    def steps() -> int:
        (walk,) = tree_rows.walks(0)
        stray = next((i for i in walk.allowed if i != tree.tokens[0]), tree.tokens[0])
        tree_rows.follow(walk, walked(tree, walk, [stray]), values)
        return walk.steps

    found = [steps() for _ in range(rows.TRY_AGAIN + 1)]
    assert found[0] == found[-1] > 1
    assert set(found[1:-1]) == {1}


@given(st.lists(st.floats(-30, 10), min_size=2, max_size=20), st.data())
def test_the_correction_leaves_the_padding_out(logits: list[float], data: st.DataObject) -> None:
    real = data.draw(st.integers(1, len(logits)))
    whole = np.array(logits) - np.logaddexp.reduce(logits)
    wanted = logits[0] - np.logaddexp.reduce(logits[:real])
    shift = correction(list(whole[real:]))
    if log(exp(whole[:real].max())) > -10:  # else next to nothing is left of the real ones
        assert whole[0] + shift == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("log_prob", [-9999.0, 1.0, float("nan"), float("inf")])
def test_what_is_no_log_probability_is_not_a_number(log_prob: float) -> None:
    step = {"top_logprobs": [{"token_id": 3, "logprob": log_prob}]}
    ((_, values),) = rows.steps_of({"token_ids": [3], "logprobs": {"content": [step]}})
    assert np.isnan(values[3])


def test_a_row_with_more_tokens_than_a_request_may_ask_for_takes_several() -> None:
    tree = AnswerTree(
        tokens=(),
        parents=(),
        depths=(),
        reads=tuple((0, token) for token in range(300)),
        opening=(),
        wordings=(),
        num_answers=0,
    )
    tree_rows = TreeRows(tree, range(300, 310))
    walks = tree_rows.walks(0)
    values = np.full(300, nan)
    for walk in walks:
        tree_rows.follow(walk, walked(tree, walk, []), values)
    assert len(walks) == 3
    assert np.isfinite(values).all()


def test_the_recorded_answer_of_vllm_is_understood() -> None:
    recorded = Path(__file__).parent / "vllm_answer.json"
    answer = json.loads(recorded.read_text(encoding="utf-8"))
    steps = rows.steps_of(answer["choices"][0])
    assert [token for token, _ in steps] == answer["choices"][0]["token_ids"]
    assert all(log_probs.keys() == {5, 9, 100, 7} for _, log_probs in steps)
    assert all(rows.may_be_log_probs(log_probs.values()) for _, log_probs in steps)
    assert weights_of(answer["choices"][0]) == "default"
    check_finished(answer["choices"][0])


@given(
    logits=st.lists(st.floats(-30, 30), min_size=2, max_size=40),
    count=st.integers(1, 40),
    shift=st.floats(0.01, 30),
)
def test_what_is_no_distribution_is_told_from_one(
    logits: list[float], count: int, shift: float
) -> None:
    log_probs = np.sort(np.array(logits) - np.logaddexp.reduce(logits))[::-1]
    likeliest = log_probs[:count].tolist()
    assert rows.may_be_log_probs(likeliest)
    assert rows.may_be_likeliest(likeliest, len(logits))
    whole = log_probs.tolist()
    assert not rows.may_be_log_probs([value + shift for value in whole])
    assert not rows.may_be_likeliest([value - shift for value in whole], len(logits))
