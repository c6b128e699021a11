"""What is mined is what TRL trains on: DPOTrainer's own preprocessing reads it, with pictures."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SEVEN
from tests.reranker.mining.mining import read, run, write
from tests.reranker.trainers.test_trl_trainers import blind_policy, seeing_policy

ANSWERS = ["it is the seven", "it is one", "what"]
TURN = [{"role": "assistant", "content": "seven"}]
SPELLED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what digit"}]}]
INPUTS: dict[str, list[dict[str, Any]]] = {
    "texts": [{"prompt": "what digit", "candidates": ANSWERS}] * 2,
    "chats": [
        {"prompt": "what digit", "candidates": ANSWERS},
        {
            "prompt": [{"role": "user", "content": "what"}],
            "candidates": [TURN, *ANSWERS],
            "id": "x",
        },
    ],
    "pictures": [
        {"prompt": "what digit", "candidates": ANSWERS},
        {"prompt": "what digit", "candidates": ANSWERS, "images": ["seven.png"]},
    ],
    "parts": [
        {"prompt": "what digit", "candidates": ANSWERS, "images": ["seven.png", "seven.png"]},
        {"prompt": SPELLED, "candidates": [TURN, *ANSWERS], "images": ["seven.png"]},
    ],
}


@pytest.fixture(params=list(INPUTS))
def mined(request: pytest.FixtureRequest, address: str, tmp_path: Path) -> tuple[str, Path]:
    shutil.copy(SEVEN, tmp_path / "seven.png")
    file = write(tmp_path / "in.jsonl", INPUTS[request.param])
    out = tmp_path / "out.jsonl"
    code, _, complaints = run(address, file, out, "--pairing", "all")
    assert code == 0, complaints
    return request.param, out


def test_all_rows_have_one_shape(mined: tuple[str, Path]) -> None:
    kind, out = mined
    rows = read(out)
    assert len(rows) == sum(
        len(row["candidates"]) * (len(row["candidates"]) - 1) // 2 for row in INPUTS[kind]
    )
    assert len({frozenset(row) for row in rows}) == 1
    assert ("images" in rows[0]) == (kind in ("pictures", "parts"))
    for row in rows:
        texts = [row[key] for key in ("prompt", "chosen", "rejected")]
        assert {type(text) for text in texts} == ({str} if kind == "texts" else {list})
        contents = [turn["content"] for text in texts if kind != "texts" for turn in text]
        assert {type(one) for one in contents} <= ({list} if kind == "parts" else {str})
        if kind == "parts":
            places = [part for one in contents for part in one if part["type"] == "image"]
            assert len(places) == len(row["images"])


@pytest.mark.filterwarnings("ignore")
def test_trls_own_trainer_takes_them(mined: tuple[str, Path], tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets")
    _, out = mined
    data = datasets.load_dataset(
        "json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    sees = "images" in data.column_names
    if sees:
        data = data.cast_column("images", datasets.List(datasets.Image()))
    policy: Callable[[], tuple[Any, Any]] = seeing_policy if sees else blind_policy
    model, processor = policy()
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=policy()[0],
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "dpo"),
            per_device_train_batch_size=2,
            max_steps=2,
            max_length=None,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=data,
        processing_class=processor,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["completion_mask"].any(dim=1).all()
    assert not sees or batch["pixel_values"].shape[0] > 0
    trainer.train()
    assert [entry for entry in trainer.state.log_history if entry.get("loss", 0) > 0]
