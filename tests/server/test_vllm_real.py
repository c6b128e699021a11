"""A real vLLM against the engine in this process: the same critic, the same numbers."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx2", reason="needs adjudge[vllm]")

from adjudge_server.config import Config
from adjudge_server.content import RawImage
from adjudge_server.critic import Query, Reading, SomeFailed
from adjudge_server.critics.vllm.critic import VllmCritic
from adjudge_server.errors import AdjudgeError, NotReady
from adjudge_server.export import export
from adjudge_server.loading import load_critic
from adjudge_server.readout import reward
from adjudge_server.templates import Kind
from tests.server import questions
from tests.server.vllm_checkpoints import TEMPLATES, VISION_HEADS, write_original
from tests.server.vllm_running import Running, needs_vllm, running

pytestmark = [needs_vllm, pytest.mark.slow]

REQUESTS = 100
LOG_PROBS = 5e-5
POINTS = 0.01
WORDS = [
    "it",
    "is",
    "a",
    "seven",
    "or",
    "perhaps",
    "an",
    "eight",
    "7",
    "42",
    ".",
    ",",
    "<image>",
    "<|im_end|>",
    "你好",
    "é",
    "Score:",
    "100",
    "]",
    "[",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_original(tmp_path_factory.mktemp("original") / "tiny")
    (directory / "templates.toml").write_text(TEMPLATES, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def engine(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    target = tmp_path_factory.mktemp("exported") / "tiny"
    export(original, target, VISION_HEADS)
    with running(target, tmp_path_factory.mktemp("vllm")) as server:
        yield server


def local_settings(original: Path) -> dict[str, Any]:
    return {
        "model": original,
        "templates": original / "templates.toml",
        "vision_heads": VISION_HEADS,
        "dtype": "float32",
    }


def settings(original: Path, engine: Running, **more: Any) -> dict[str, Any]:
    there = {"engine": "vllm", "engine_url": engine.url, "engine_timeout_seconds": 300.0}
    return local_settings(original) | there | more


@pytest.fixture
def critic(original: Path, engine: Running) -> Iterator[VllmCritic]:
    critic = load_critic(Config(**settings(original, engine)))
    assert isinstance(critic, VllmCritic)
    yield critic
    critic.close()


def mixed(card: Any) -> list[Query]:
    """Of both kinds, with no picture, one or two, of all sizes, some of them again and again."""
    chance = Random(0)
    images = [_image(chance, n) for n in range(12)]

    def words(most: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(0, most)))

    queries = []
    for _ in range(REQUESTS):
        seen = chance.sample(images, chance.choice((0, 1, 1, 1, 2)))
        question = words(30) or "What?"
        if chance.random() < 0.5:
            queries.append(questions.score_query(card, question, words(60), *seen))
        else:
            queries.append(questions.pair_query(card, question, words(40), words(40), *seen))
    return queries


def _image(chance: Random, seed: int) -> RawImage:
    width, height = chance.randint(20, 250), chance.randint(20, 250)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return RawImage("RGB", width, height, pixels.tobytes())


def read(critic: Any, queries: list[Query]) -> list[Reading]:
    readings: list[Reading] = critic.forward(critic.prepare(queries))
    return readings


def difference(one: Reading, other: Reading) -> float:
    answers = np.abs(one.answer_log_probs - other.answer_log_probs).max()
    return max(abs(one.opening_mass - other.opening_mass), float(answers))


def test_a_hundred_mixed_requests_read_alike(original: Path, critic: VllmCritic) -> None:
    local = load_critic(Config(**local_settings(original)))
    queries = mixed(local.card)
    found, wanted = read(critic, queries), read(local, queries)
    points = [
        abs(reward(query.template, a).reward - reward(query.template, b).reward)
        for query, a, b in zip(queries, found, wanted, strict=True)
        if query.template.kind is Kind.POINTWISE
    ]
    print(
        f"\nlog-probabilities: {largest(found, wanted):.1e} nats; rewards: {max(points):.1e} points"
    )
    assert largest(found, wanted) < LOG_PROBS
    assert max(points) < POINTS


def test_a_critique_is_that_of_the_engine_in_this_process(original: Path, engine: Running) -> None:
    greedy = {"repetition_penalty": 1.0}
    critic = load_critic(Config(**settings(original, engine, **greedy)))
    local = load_critic(Config(**local_settings(original), **greedy))
    try:
        (query,) = mixed(local.card)[:1]
        texts = []
        for each in (local, critic):
            (item,) = each.prepare([query])
            texts.append([step.token for step in each.critique(item, 20)])
        assert texts[0] == texts[1]
    finally:
        assert isinstance(critic, VllmCritic)
        critic.close()


def test_an_engine_that_is_slow_and_one_that_is_killed_is_away_until_it_is_back(
    original: Path, engine: Running
) -> None:
    critic = load_critic(Config(**settings(original, engine, engine_timeout_seconds=60.0)))
    assert isinstance(critic, VllmCritic)
    try:
        queries = mixed(critic.card)[:4]
        before = read(critic, queries)
        engine.pause()
        try:
            assert reasons(critic, queries) == {"NOT_READY"}
        finally:
            engine.go_on()
        critic.beat()
        assert largest(read(critic, queries), before) < LOG_PROBS
        engine.kill()
        assert reasons(critic, queries) == {"NOT_READY"}
        with pytest.raises(NotReady):
            critic.beat()
        engine.start()
        critic.beat()
        assert largest(read(critic, queries), before) < LOG_PROBS
    finally:
        critic.close()


def reasons(critic: VllmCritic, queries: list[Query]) -> set[str]:
    with pytest.raises(SomeFailed) as failed:
        read(critic, queries)
    outcomes = failed.value.outcomes
    return {each.reason if isinstance(each, AdjudgeError) else "" for each in outcomes}


def largest(found: list[Reading], wanted: list[Reading]) -> float:
    return max(difference(a, b) for a, b in zip(found, wanted, strict=True))
