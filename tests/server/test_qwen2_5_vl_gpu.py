"""Qwen2.5-VL on a GPU against plain transformers there. Left out where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adjudge_server.caches import CacheBytes
from adjudge_server.critics import qwen2_5_vl_loading
from tests.server.qwen2_5_vl_checkpoints import write_qwen2_5_vl
from tests.server.qwen2_5_vl_plain import Plain
from tests.server.test_qwen2_5_vl_engine import CACHES, all_queries, difference, prepared

DEVICE = "cuda:0"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen2_5_vl(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("caches", CACHES.values(), ids=list(CACHES))
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-9), ("float32", 5e-4), ("float16", 0.05), ("bfloat16", 0.4)],
)
def test_every_batch_gives_what_plain_transformers_gives(
    directory: Path, dtype: str, tolerance: float, caches: CacheBytes
) -> None:
    critic = qwen2_5_vl_loading.load(
        directory, name="tiny", device=DEVICE, dtype=dtype, max_input_tokens=4096, caches=caches
    )
    queries = all_queries(critic)
    items = prepared(critic, queries)
    plain = Plain(directory, dtype, critic._head._tokenizer.size, DEVICE)
    truth = [plain.reading(*asked) for asked in zip(items, queries, strict=True)]
    generator = np.random.default_rng(0)
    for _ in range(20):
        batch = generator.integers(0, len(items), generator.integers(1, 25))
        readings = critic.forward([items[i] for i in batch])
        for index, reading in zip(batch, readings, strict=True):
            assert difference(reading, truth[index]) < tolerance
