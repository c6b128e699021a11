"""The answer tree against its definition: one continuation at a time, each in a pass of its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adjudge_server.answers import answer_tree
from adjudge_server.content import EncodedImage
from adjudge_server.critic import Query, Written
from adjudge_server.critics import llava_loading
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import CONTEXT, PreparedPrompt
from adjudge_server.template_files import parse
from adjudge_server.template_sets import set_names, templates_of
from adjudge_server.templates import Template, VerdictPlace
from adjudge_server.tokenization import TextTokenizer
from adjudge_server.verdict import Located
from tests.conftest import SEVEN
from tests.server import checkpoints, plain, questions
from tests.server.questions import locate

TURN = "assistant\n"
TOKENIZERS = {
    "embedded": checkpoints.embedded_tokenizer,
    "qwen": checkpoints.qwen_tokenizer,
}
TOLERANCES = {"float64": 1e-9, "float32": 5e-5}
EVERY = [template for name in set_names() for template in templates_of(name)]
SCORES = ("0", "1", "2", "8", "10", "11", "85", "100")
"""Labels that stand for all scores: those that longer ones extend, and some that none does."""


@pytest.fixture(scope="module", params=TOKENIZERS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return checkpoints.write_checkpoint(folder, TOKENIZERS[request.param](), grids=[[56, 56]])


@pytest.fixture(scope="module", params=TOLERANCES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def critic(directory: Path, dtype: str) -> LlavaOnevisionCritic:
    return load(directory, dtype)


def load(directory: Path, dtype: str) -> LlavaOnevisionCritic:
    return llava_loading.load(
        directory,
        name="tiny",
        device="cpu",
        dtype=dtype,
        max_input_tokens=4096,
        templates=EVERY,
    )


class Naive:
    """The definition in `answers.py`, computed the slow way.

    Each continuation is tokenised as part of the whole text of the critic's turn and gets a forward
    pass of its own: no cache, no mask, no packing, no tree.
    """

    def __init__(self, critic: LlavaOnevisionCritic, item: PreparedPrompt, said: str = "") -> None:
        """`said`: what of the critic's turn is in the item already."""
        self._critic = critic
        self._said = said
        self._item = item
        self._tokenizer = critic._head._tokenizer

    def continuation(self, text: str, *, after: str) -> list[int]:
        encode = self._tokenizer.encode
        after = TURN + self._said + after
        return encode(after + text)[len(encode(after)) :]

    def log_prob(self, before: list[int], tokens: list[int]) -> float:
        """Of tokens, given the prompt and what the critic has said before."""
        log_probs = plain.log_probs(self._critic, self._item, [*before, *tokens])[len(before) :]
        return sum(float(log_probs[i, token]) for i, token in enumerate(tokens))

    def answers(self, template: Template, *, only: Sequence[str] | None = None) -> dict[int, float]:
        """Log-probability by index, of the answers with these labels."""
        opening = self.continuation(template.opening, after="")
        forms = [form for answer in template.answers for form in answer.forms]
        return {
            i: float(np.logaddexp.reduce([self.form(template, opening, f, forms) for f in a.forms]))
            for i, a in enumerate(template.answers)
            if only is None or a.label in only
        }

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
        expected = list(naive.answers(query.template).values())
        difference = np.abs(reading.answer_log_probs - expected).max()
        assert difference <= TOLERANCES[dtype]
        assert abs(reading.opening_mass - naive.log_prob([], opening)) <= TOLERANCES[dtype]
        assert len(np.unique(reading.answer_log_probs)) == len(query.template.answers)


@pytest.mark.parametrize("template", EVERY, ids=lambda t: t.name)
def test_the_tree_of_every_template_equals_one_continuation_at_a_time(
    critic: LlavaOnevisionCritic, dtype: str, template: Template
) -> None:
    query = questions.query_of(critic.card, template, ("7", "A cross, I think."))
    (item,) = critic.prepare([query])
    assert isinstance(item, PreparedPrompt)
    assert_equal_to_naive(critic, item, template, Naive(critic, item), TOLERANCES[dtype])


def assert_equal_to_naive(
    critic: LlavaOnevisionCritic,
    item: PreparedPrompt,
    template: Template,
    naive: Naive,
    tolerance: float,
) -> None:
    (reading,) = critic.forward([item])
    expected = naive.answers(template, only=SCORES if template.scores else None)
    assert expected
    for index, value in expected.items():
        assert abs(reading.answer_log_probs[index] - value) <= tolerance
    opening = naive.continuation(template.opening, after="")
    assert abs(reading.opening_mass - naive.log_prob([], opening)) <= tolerance


# After a critique ---------------------------------------------------------------------------------

SAID = ("", "I think so. ", "It looks like 語 to me.\n", "**")
"""The second ends in a space that belongs to the first word of a verdict, and to its token."""


@pytest.fixture(scope="module")
def exact(directory: Path) -> LlavaOnevisionCritic:
    return load(directory, "float64")


def spelled(critic: LlavaOnevisionCritic, text: str) -> list[Written]:
    """A text as the critic would write it: its tokens, characters shown once they are complete."""
    encode = critic._head._tokenizer.encode
    tokens = encode(TURN + text)[len(encode(TURN)) :]
    written: list[Written] = []
    shown = ""
    for count, token in enumerate(tokens, 1):
        so_far = critic._head._tokenizer.decode(tokens[:count])
        complete = shown if so_far.endswith("\ufffd") else so_far
        written.append(Written(token, complete[len(shown) :]))
        shown = complete
    assert shown == text
    return written


def example(template: Template) -> str:
    return f"{template.opening}{template.answers[1].forms[0]}"


def led(template: Template, lead: str) -> Template:
    """The template as if its verdicts began with `lead`."""
    if template.opening:
        return replace(template, opening=lead + template.opening)
    answers = [replace(a, forms=tuple(lead + form for form in a.forms)) for a in template.answers]
    return replace(template, answers=tuple(answers))


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("template", EVERY, ids=lambda t: t.name)
def test_a_verdict_is_read_after_the_critics_own_tokens(
    exact: LlavaOnevisionCritic, template: Template, said: str
) -> None:
    query = questions.query_of(exact.card, template, ("7", "A cross, I think."))
    (item,) = exact.prepare([query])
    assert isinstance(item, PreparedPrompt)
    said = template.after + said
    verdict = template.opening + template.answers[1].forms[0]
    written = spelled(exact, f"{said}{verdict}, because.")
    found = locate(template, "".join(step.text for step in written), ended=True)
    comes_late = template.verdict is VerdictPlace.START and said.strip()
    assert found == (None if comes_late else Located(len(said), template.opening))

    # What is read at a place does not hang on whether a verdict counts there.
    there = exact.after(item, written, len(said), template.opening)
    own = written[: len(there.token_ids) - len(item.token_ids)]
    before = "".join(step.text for step in own)
    assert there.token_ids == item.token_ids + tuple(step.token for step in own)
    assert len(said) - 1 <= len(before) and said.startswith(before)
    (reading,) = exact.forward([there])
    naive = Naive(exact, there, before)
    spoken = led(template, said[len(before) :])
    for index, value in naive.answers(
        spoken, only=SCORES[1:3] if template.scores else None
    ).items():
        assert abs(reading.answer_log_probs[index] - value) <= TOLERANCES["float64"]
    opening = naive.continuation(spoken.opening, after="")
    assert abs(reading.opening_mass - naive.log_prob([], opening)) <= TOLERANCES["float64"]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    "text", ["It is so. ", "語" * 3, "1 0 ", "\n\n", "a" * 7, "*** ", "</think>"]
)
def test_the_end_of_a_long_critique_is_context_enough(tokenizer: str, text: str) -> None:
    encode = TextTokenizer(TOKENIZERS[tokenizer]()).encode
    whole = f"{TURN}{text * (2 * CONTEXT // len(text))}\n"
    for template in EVERY[::4]:
        long, short = (answer_tree(template, encode, t, 0) for t in (whole, whole[-CONTEXT:]))
        assert long == short


def test_the_tokens_that_the_critic_chose_are_kept_even_where_its_text_has_others(
    exact: LlavaOnevisionCritic,
) -> None:
    query = questions.query_of(exact.card, EVERY[0], ("7", "A cross."))
    (item,) = exact.prepare([query])
    assert isinstance(item, PreparedPrompt)
    encode = exact._head._tokenizer.encode
    letters = [Written(encode(letter)[0], letter) for letter in "think"]
    assert len(encode("think")) < len(letters)
    there = exact.after(item, [*letters, Written(encode("\n")[0], "\n")], 6, "Score: ")
    assert there.token_ids[len(item.token_ids) :][:5] == tuple(step.token for step in letters)


def test_a_verdict_may_follow_an_added_token(exact: LlavaOnevisionCritic) -> None:
    """Its text would merge with the verdict's; the token does not."""
    query = questions.query_of(exact.card, EVERY[0], ("7", "A cross."))
    (item,) = exact.prepare([query])
    assert isinstance(item, PreparedPrompt)
    tokenizer = exact._head._tokenizer
    mark = tokenizer.added["<image>"]
    written = [Written(tokenizer.encode("so")[0], "so"), Written(mark, "<image>")]
    there = exact.after(item, written, len("so<image>"), "Score: ")
    assert there.token_ids[len(item.token_ids) :] == tuple(step.token for step in written)
    alone = exact.after(item, [], 0, "Score: ")
    assert there.tree.tokens == alone.tree.tokens


def test_a_verdict_that_begins_where_no_token_begins_is_not_read(
    exact: LlavaOnevisionCritic,
) -> None:
    query = questions.query_of(exact.card, EVERY[1], ("7", "A cross."))
    (item,) = exact.prepare([query])
    assert isinstance(item, PreparedPrompt)
    encode = exact._head._tokenizer.encode
    apart = [Written(encode(text)[0], text) for text in ("think", " ")]
    with pytest.raises(ValueError, match="merges"):
        exact.after(item, apart, 6, "")


def test_all_101_scores_cost_ten_positions_where_each_digit_is_a_token() -> None:
    tokenizer = TextTokenizer(checkpoints.qwen_tokenizer())
    template = templates_of("embedded")[0]
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
    (parsed,) = parse(source).templates
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
