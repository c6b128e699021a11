"""Qwen2.5-VL against plain transformers: whatever the company, the order and what is remembered.

Its positions are no counts of tokens: a picture's features stand side by side, and the text after
it goes on behind the longer side.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adjudge_server.caches import CacheBytes
from adjudge_server.content import RawImage
from adjudge_server.critic import Query, Reading
from adjudge_server.critics import qwen2_5_vl_loading
from adjudge_server.critics.packing import pack
from adjudge_server.critics.plan import make_plan
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.critics.qwen2_5_vl import Qwen2_5VlCritic
from adjudge_server.templates import Kind
from tests.server import questions
from tests.server.qwen2_5_vl_checkpoints import write_qwen2_5_vl
from tests.server.qwen2_5_vl_plain import Plain

TEXTS = ("7", "A seven.", "A seven, I think.", "", "word " * 45 + "A", "word " * 45 + "B")
CACHES = {"kept": CacheBytes(), "evicting": CacheBytes(30_000, 5_000), "off": CacheBytes(0, 0)}
COUNT = 52


def noise(width: int, height: int, seed: int = 0) -> RawImage:
    pixels = np.random.default_rng(seed).integers(0, 256, width * height * 3, np.uint8)
    return RawImage("RGB", width, height, pixels.tobytes())


PICTURES = (
    (noise(150, 90),),
    (noise(56, 60), noise(230, 70)),
    (noise(90, 150, 1), noise(56, 60), noise(90, 150, 1)),
    (),
)
"""One, several of different sizes, and one that comes twice."""


def load(directory: Path, dtype: str, caches: CacheBytes) -> Qwen2_5VlCritic:
    return qwen2_5_vl_loading.load(
        directory, name="tiny", device="cpu", dtype=dtype, max_input_tokens=4096, caches=caches
    )


def all_queries(critic: Qwen2_5VlCritic) -> list[Query]:
    """About several pictures: every text, pairs of some, in both orders, and a second question."""
    queries = []
    for pictures in PICTURES:
        prompts = {"What is this?": TEXTS, "What is that?": TEXTS[:2]}
        for prompt, texts in prompts.items():
            queries += [questions.score_query(critic.card, prompt, t, *pictures) for t in texts]
        asked = questions.asked(critic.card, Kind.PAIRWISE, "What is this?", *pictures)
        for first, second in ((1, 2), (2, 1), (4, 5), (5, 4), (4, 0)):
            queries.append(asked.query({"first": TEXTS[first], "second": TEXTS[second]}))
    return queries


def prepared(critic: Qwen2_5VlCritic, queries: Sequence[Query]) -> list[PreparedPrompt]:
    items = critic.prepare(queries)
    assert all(isinstance(item, PreparedPrompt) for item in items)
    return items  # type: ignore[return-value]


def difference(one: Reading, other: Reading) -> float:
    answers = np.abs(one.answer_log_probs - other.answer_log_probs).max()
    return max(abs(one.opening_mass - other.opening_mass), float(answers))


class Engine:
    """A critic with everything that it may be asked, and the truth about it."""

    def __init__(self, directory: Path, dtype: str) -> None:
        self.by_cache = {name: load(directory, dtype, caches) for name, caches in CACHES.items()}
        critic = self.by_cache["kept"]
        self.queries = all_queries(critic)
        self.items = prepared(critic, self.queries)
        self.plain = Plain(directory, dtype, critic._head._tokenizer.size)
        self.truth = [self.plain.reading(*asked) for asked in self.asked]

    @property
    def asked(self) -> list[tuple[PreparedPrompt, Query]]:
        return list(zip(self.items, self.queries, strict=True))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen2_5_vl(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def double(directory: Path) -> Engine:
    return Engine(directory, "float64")


@pytest.fixture(scope="module")
def single(directory: Path) -> Engine:
    return Engine(directory, "float32")


BATCHES = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=24)
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_there_are_as_many_items_as_the_batches_draw_from(double: Engine) -> None:
    assert len(double.items) == COUNT


@pytest.mark.parametrize("cache", CACHES)
@given(batch=BATCHES)
@FEW
def test_every_batch_gives_what_plain_transformers_gives(
    double: Engine, cache: str, batch: list[int]
) -> None:
    readings = double.by_cache[cache].forward([double.items[i] for i in batch])
    for index, reading in zip(batch, readings, strict=True):
        assert difference(reading, double.truth[index]) < 1e-9


@pytest.mark.parametrize("cache", CACHES)
@given(batch=BATCHES)
@FEW
def test_in_single_precision_too(single: Engine, cache: str, batch: list[int]) -> None:
    readings = single.by_cache[cache].forward([single.items[i] for i in batch])
    for index, reading in zip(batch, readings, strict=True):
        assert difference(reading, single.truth[index]) < 5e-5


@pytest.mark.parametrize("cache", CACHES)
def test_a_critique_is_what_plain_greedy_decoding_gives(double: Engine, cache: str) -> None:
    critic = double.by_cache[cache]
    for index in (0, 14, 27, 40):
        item, query = double.asked[index]
        written = [w.token for w in critic.critique(item, 12)]
        assert written == double.plain.greedy(item, query, 12, critic._head._end_tokens)


def test_a_verdict_after_a_critique_is_read_where_plain_transformers_reads_it(
    double: Engine,
) -> None:
    critic = double.by_cache["kept"]
    for index in (1, 15, 30):
        item, query = double.asked[index]
        written = list(critic.critique(item, 12))
        text = "".join(step.text for step in written)
        after = critic.after(item, written, len(text), query.template.opening)
        (reading,) = critic.forward([after])
        assert difference(reading, double.plain.reading(after, query)) < 1e-9


def test_the_picture_is_computed_once_for_all_that_is_asked_about_it(directory: Path) -> None:
    critic = load(directory, "float32", CacheBytes())
    at_start = critic.memory().features
    picture = noise(230, 70)
    queries = [
        questions.score_query(critic.card, prompt, text, picture)
        for prompt in ("What is this?", "What is that?")
        for text in ("7", "A seven.")
    ]
    first, *others = prepared(critic, queries)
    assert first.image_tokens == 8 * 2
    (cold,) = critic.forward([first])
    assert cold.computed_tokens == first.shared_tokens + first.own_tokens
    warm = critic.forward(others)
    assert warm[0].computed_tokens == others[0].own_tokens
    assert sum(reading.computed_tokens for reading in warm[1:]) < first.shared_tokens
    assert critic.memory().features.misses == at_start.misses + 1


def test_positions_are_flat_where_no_picture_is_computed(single: Engine) -> None:
    """Three of them for each row cost more, and say nothing about text."""
    critic = single.by_cache["off"]
    seeing = pack(make_plan(single.items[:3], critic.decoder.prefixes))
    assert seeing.positions.shape == (3, len(seeing.token_ids))
    blind = pack(make_plan(single.items[-3:], critic.decoder.prefixes))
    assert blind.positions.shape == blind.token_ids.shape
    warm = single.by_cache["kept"]
    warm.forward(single.items[:3])
    again = pack(make_plan(single.items[:3], warm.decoder.prefixes))
    assert again.positions.shape == again.token_ids.shape


def test_text_goes_on_behind_the_longer_side_of_a_picture(single: Engine) -> None:
    critic = single.by_cache["off"]
    item = single.items[0]
    rows = pack(make_plan([item], critic.decoder.prefixes))
    (start,), picture = item.picture_starts, item.pictures[0].layout
    assert (picture.across, picture.down) == (5, 3)
    end = start + picture.num_tokens
    seen = rows.positions[:, start:end] - start
    assert seen[0].tolist() == [0] * 15
    assert seen[1].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert seen[2].tolist() == [0, 1, 2, 3, 4] * 3
    assert rows.positions[:, end].tolist() == [start + 5] * 3
