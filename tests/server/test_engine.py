"""The engine against plain transformers: whatever the company, the order and what is remembered."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adjudge_server.caches import CacheBytes
from adjudge_server.content import RawImage
from adjudge_server.critic import Query, Reading
from adjudge_server.critics import llava_loading
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.packing import PackedRows, pack
from adjudge_server.critics.plan import make_plan
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.templates import Kind
from tests.server import checkpoints, plain, questions

GRIDS = [[56 * height, 56 * width] for height in (1, 2) for width in (1, 2)]
TEXTS = ("7", "A seven.", "A seven, I think.", "", "word " * 45 + "A", "word " * 45 + "B")
NOTHING = CacheBytes(0, 0)
COUNT = 66
EVICTING = CacheBytes(30_000, 10_000)


def noise(width: int, height: int, seed: int = 0) -> RawImage:
    pixels = np.random.default_rng(seed).integers(0, 256, width * height * 3, np.uint8)
    return RawImage("RGB", width, height, pixels.tobytes())


PICTURES = ((noise(110, 50),), (noise(56, 56), noise(110, 50)), ())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return checkpoints.write_checkpoint(folder, checkpoints.tiny_tokenizer(), grids=GRIDS)


def load(
    directory: Path, dtype: str = "float64", caches: CacheBytes | None = None
) -> LlavaOnevisionCritic:
    return llava_loading.load(
        directory,
        name="tiny",
        device="cpu",
        dtype=dtype,
        max_input_tokens=4096,
        caches=caches or CacheBytes(),
    )


def all_queries(critic: LlavaOnevisionCritic) -> list[Query]:
    """Of two prompts about several pictures: every text, and pairs of some, in both orders."""
    queries = []
    for pictures in PICTURES:
        for prompt in ("What is this?", "What is that?"):
            queries += [questions.score_query(critic.card, prompt, t, *pictures) for t in TEXTS]
            asked = questions.asked(critic.card, Kind.PAIRWISE, prompt, *pictures)
            for first, second in ((1, 2), (2, 1), (4, 5), (5, 4), (4, 0)):
                texts = {"first": TEXTS[first], "second": TEXTS[second]}
                queries.append(asked.query(texts))
    return queries


def prepared(critic: LlavaOnevisionCritic, queries: Sequence[Query]) -> list[PreparedPrompt]:
    items = critic.prepare(queries)
    assert all(isinstance(item, PreparedPrompt) for item in items)
    return items  # type: ignore[return-value]


def difference(one: Reading, other: Reading) -> float:
    answers = np.abs(one.answer_log_probs - other.answer_log_probs).max()
    return max(abs(one.opening_mass - other.opening_mass), float(answers))


class Engine:
    """A critic with everything that it may be asked, and the truth about it."""

    def __init__(self, directory: Path, dtype: str) -> None:
        self.by_cache = {
            name: load(directory, dtype, caches)
            for name, caches in (("kept", None), ("evicting", EVICTING), ("off", NOTHING))
        }
        critic = self.by_cache["kept"]
        self.items = prepared(critic, all_queries(critic))
        self.truth = [plain.reading(critic, item) for item in self.items]


@pytest.fixture(scope="module")
def double(directory: Path) -> Engine:
    return Engine(directory, "float64")


@pytest.fixture(scope="module")
def single(directory: Path) -> Engine:
    return Engine(directory, "float32")


BATCHES = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=24)
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_there_are_as_many_items_as_the_batches_draw_from(double: Engine) -> None:
    assert len(double.items) == COUNT


@pytest.mark.parametrize("cache", ["kept", "evicting", "off"])
@given(batch=BATCHES)
@FEW
def test_every_batch_gives_what_plain_transformers_gives(
    double: Engine, cache: str, batch: list[int]
) -> None:
    readings = double.by_cache[cache].forward([double.items[i] for i in batch])
    for index, reading in zip(batch, readings, strict=True):
        assert difference(reading, double.truth[index]) < 1e-9


@pytest.mark.parametrize("cache", ["kept", "evicting", "off"])
@given(batch=BATCHES)
@FEW
def test_in_single_precision_too(single: Engine, cache: str, batch: list[int]) -> None:
    readings = single.by_cache[cache].forward([single.items[i] for i in batch])
    for index, reading in zip(batch, readings, strict=True):
        assert difference(reading, single.truth[index]) < 5e-5


def test_what_may_be_remembered_is_bounded(single: Engine) -> None:
    critic = single.by_cache["evicting"]
    critic.forward(single.items)
    assert 0 < critic.decoder.prefixes.nbytes <= EVICTING.prefixes
    off = single.by_cache["off"]
    off.forward(single.items)
    assert off.decoder.prefixes.nbytes == 0


def test_equal_items_are_computed_once_and_are_bit_identical(single: Engine) -> None:
    critic = single.by_cache["off"]
    item = single.items[1]
    one, *others = critic.forward([item, single.items[0], item, replace(item)])
    assert [other.computed_tokens for other in others[1:]] == [0, 0]
    for other in others[1:]:
        assert np.array_equal(other.answer_log_probs, one.answer_log_probs)


def computed(critic: LlavaOnevisionCritic, queries: Sequence[Query]) -> int:
    return sum(r.computed_tokens for r in critic.forward(prepared(critic, queries)))


def test_a_known_beginning_is_not_computed_again(directory: Path) -> None:
    """For another candidate, the other order, another question, and the other kind of judgement."""
    critic = load(directory)
    picture = noise(110, 50)

    def score(prompt: str, text: str) -> list[Query]:
        return [questions.score_query(critic.card, prompt, text, picture)]

    def pair(first: str, second: str) -> list[Query]:
        asked = questions.asked(critic.card, Kind.PAIRWISE, "What is this?", picture)
        return [asked.query({"first": first, "second": second})]

    image_tokens = prepared(critic, score("Q", "A"))[0].image_tokens
    cold = computed(critic, score("What is this?", "A seven."))
    assert cold == prepared(critic, score("What is this?", "A seven."))[0].shared_tokens + (
        own := prepared(critic, score("What is this?", "A seven."))[0].own_tokens
    )
    assert computed(critic, score("What is this?", "A seven.")) == own
    other_question = computed(critic, score("How many are there?", "A seven."))
    assert own < other_question < cold - image_tokens
    (item,) = prepared(critic, pair("A seven.", "A two."))
    first_pair = computed(critic, pair("A seven.", "A two."))
    # The two preambles part in the middle; the picture and what comes before are known.
    assert item.own_tokens < first_pair < item.shared_tokens + item.own_tokens - image_tokens
    swapped = prepared(critic, pair("A two.", "A seven."))[0].own_tokens
    assert computed(critic, pair("A two.", "A seven.")) == swapped
    critic.forget()
    assert computed(critic, score("What is this?", "A seven.")) == cold


@given(batch=BATCHES)
@FEW
def test_every_row_sees_the_tokens_before_it_and_itself(double: Engine, batch: list[int]) -> None:
    """And nothing else: one at each position up to its own."""
    rows = packed_rows(double.by_cache["off"], [double.items[i] for i in batch])
    seen = np.zeros((len(rows.token_ids), len(rows.token_ids)), int)
    for block in rows.blocks:
        for k, of_segment in enumerate(block.rows):
            start = of_segment[0]
            length = int(((block.places // len(of_segment)) == k).sum())
            seen[start : start + length, start : start + length] += block.visible[
                k, :length, :length
            ]
    for start, end in rows.causal:
        seen[start:end, start:end] += np.tri(end - start, dtype=int)
    for start, end, last in rows.spans:
        seen[end:last, start:end] += 1
    assert seen.max() == 1
    for row, position in enumerate(rows.positions):
        assert sorted(rows.positions[seen[row] == 1]) == list(range(position + 1))


def test_pairs_with_the_same_first_response_share_it(single: Engine) -> None:
    critic = single.by_cache["off"]
    asked = questions.asked(critic.card, Kind.PAIRWISE, "What is this?")
    texts = [f"{'word ' * 30}{i}" for i in range(5)]
    pairs = [{"first": a, "second": b} for a in texts for b in texts if a != b]
    items = prepared(critic, [asked.query(pair) for pair in pairs])
    rows = sum(r.computed_tokens for r in critic.forward(items))
    without = items[0].shared_tokens + sum(item.own_tokens for item in items)
    assert rows <= without - len(texts) * (len(texts) - 2) * 30


def test_one_long_candidate_does_not_make_the_others_long(single: Engine) -> None:
    critic = single.by_cache["off"]
    texts = ["7", "word " * 900, *(f"A {i}." for i in range(40)), "word " * 30]
    queries = [questions.score_query(critic.card, "Q", text, noise(56, 56)) for text in texts]
    items = prepared(critic, queries)
    plan = make_plan(items, critic.decoder.prefixes)
    rows = packed_rows(critic, items)
    places = sum(block.rows.size for block in rows.blocks)
    assert places <= 2 * plan.num_rows
    for item, reading in zip(items, critic.forward(items), strict=True):
        assert difference(reading, critic.forward([item])[0]) < 1e-4


def packed_rows(critic: LlavaOnevisionCritic, items: Sequence[PreparedPrompt]) -> PackedRows:
    return pack(make_plan(items, critic.decoder.prefixes))


@pytest.mark.parametrize("cache", ["kept", "evicting", "off"])
def test_a_critique_is_what_plain_greedy_decoding_gives(double: Engine, cache: str) -> None:
    critic = double.by_cache[cache]
    for index in (0, 3, 9, 25, 45, 60):
        written = [w.token for w in critic.critique(double.items[index], 12)]
        assert written == plain.greedy(critic, double.items[index], 12)


def test_scores_between_the_steps_of_a_critique_change_neither(double: Engine) -> None:
    critic = double.by_cache["evicting"]
    undisturbed = [w.token for w in critic.critique(double.items[0], 12)]
    tokens = []
    for number, written in enumerate(critic.critique(double.items[0], 12)):
        tokens.append(written.token)
        readings = critic.forward(double.items[number : number + 9])
        for expected, reading in zip(double.truth[number : number + 9], readings, strict=True):
            assert difference(reading, expected) < 1e-9
    assert tokens == undisturbed
