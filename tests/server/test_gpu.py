"""What only a GPU can show: its kernels give what plain transformers gives there, and the same
server answers from it. Left out where there is none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from adjudge_reranker import AdminClient, CritiqueText, Image, RewardClient
from adjudge_server.caches import CacheBytes
from adjudge_server.config import Config
from adjudge_server.critics import llava_loading
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.serve import Server
from tests.conftest import CROSS, SEVEN, running
from tests.server import checkpoints, plain
from tests.server.test_engine import (
    EVICTING,
    GRIDS,
    NOTHING,
    all_queries,
    difference,
    prepared,
)
from tests.server.test_moving_weights import changed, embedded

DEVICE = "cuda:0"
PROMPT = (Image.open(SEVEN), "What this image presents?")
ANSWERS = ("This is a handwritten number seven.", CROSS, "This is a handwritten number four.", "")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return checkpoints.write_checkpoint(folder, checkpoints.tiny_tokenizer(), grids=GRIDS)


def load(directory: Path, dtype: str, caches: CacheBytes) -> LlavaOnevisionCritic:
    return llava_loading.load(
        directory, name="tiny", device=DEVICE, dtype=dtype, max_input_tokens=4096, caches=caches
    )


@pytest.mark.parametrize("caches", [CacheBytes(), EVICTING, NOTHING], ids=["kept", "evict", "off"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-9), ("float32", 5e-4), ("float16", 0.05), ("bfloat16", 0.4)],
)
def test_every_batch_gives_what_plain_transformers_gives(
    directory: Path, dtype: str, tolerance: float, caches: CacheBytes
) -> None:
    critic = load(directory, dtype, caches)
    items = prepared(critic, all_queries(critic))
    truth = [plain.reading(critic, item) for item in items]
    generator = np.random.default_rng(0)
    for _ in range(30):
        batch = generator.integers(0, len(items), generator.integers(1, 24)).tolist()
        readings = critic.forward([items[i] for i in batch])
        for index, reading in zip(batch, readings, strict=True):
            assert difference(reading, truth[index]) < tolerance


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded critic's, and others beside them."""
    first = embedded(tmp_path_factory.mktemp("weights"))
    changed(first, "other", lambda name, tensor: tensor * 1.01 if "q_proj" in name else tensor)
    return first


@pytest.fixture(scope="module")
def served(weights: Path) -> Iterator[Server]:
    config = Config(
        listen="127.0.0.1:0",
        model=weights,
        device=DEVICE,
        dtype="float32",
        template_set="embedded",
        enable_admin=True,
        weights_dir=(weights.parent,),
    )
    with running(config) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Server) -> Iterator[RewardClient]:
    with RewardClient(f"127.0.0.1:{served.port}") as client:
        yield client


@pytest.fixture(scope="module")
def on_cpu(weights: Path) -> Iterator[RewardClient]:
    config = Config(listen="127.0.0.1:0", model=weights, device="cpu", template_set="embedded")
    with running(config) as server, RewardClient(f"127.0.0.1:{server.port}") as client:
        yield client


def test_the_gpu_gives_the_numbers_of_the_cpu(client: RewardClient, on_cpu: RewardClient) -> None:
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    rewards = on_cpu.score(PROMPT, ANSWERS).rewards
    margins = on_cpu.compare(PROMPT, ANSWERS, pairs).margins
    assert client.score(PROMPT, ANSWERS).rewards == pytest.approx(rewards, abs=0.01)
    assert client.compare(PROMPT, ANSWERS, pairs).margins == pytest.approx(margins, abs=1e-3)


def test_it_writes_what_the_cpu_writes(client: RewardClient, on_cpu: RewardClient) -> None:
    expected, found = (
        [
            event.text
            for event in asked.critique(PROMPT, ANSWERS[:1], max_critique_tokens=48)
            if isinstance(event, CritiqueText)
        ]
        for asked in (on_cpu, client)
    )
    assert expected and found == expected


def test_too_little_memory_costs_no_reward_its_correctness(client: RewardClient) -> None:
    """What fits only in halves is computed in halves; the server goes on whatever happens."""
    answers = [f"This is a handwritten number seven, seen {i} times." for i in range(200)]
    expected = client.score(PROMPT, answers).rewards
    assert None not in expected
    torch.cuda.empty_cache()
    used, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((used + (64 << 20)) / total)
    try:
        short = client.score(PROMPT, answers).rewards
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for found, right in zip(short, expected, strict=True):
        assert found is None or found == pytest.approx(right, abs=0.02)
    assert client.score(PROMPT, answers).rewards == pytest.approx(expected, abs=0.02)


def test_weights_move_on_it(served: Server, client: RewardClient, weights: Path) -> None:
    before = client.score(PROMPT, ANSWERS).rewards
    with AdminClient(f"127.0.0.1:{served.port}") as admin:
        admin.load_weights(weights.parent / f"{weights.name}-other")
        others = client.score(PROMPT, ANSWERS).rewards
        admin.load_weights(weights)
    assert others != pytest.approx(before, abs=0.01)
    assert client.score(PROMPT, ANSWERS).rewards == pytest.approx(before, abs=0.01)
