"""Original checkpoints as vLLM loads them: the same bytes under other names."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adjudge_server import export as exporting
from adjudge_server.critics import llava_loading
from adjudge_server.critics.checkpoint import read_tokenizer
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.export import ROWS, export
from tests.server import questions
from tests.server.test_llava_original import shard
from tests.server.vllm_checkpoints import VISION_HEADS, write_original

TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def exported(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "tiny"
    export(original, target, VISION_HEADS)
    return target


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= load_file(path)
    return found


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def load(directory: Path, vision_heads: int | None = None) -> LlavaOnevisionCritic:
    return llava_loading.load(
        directory,
        name="tiny",
        device="cpu",
        dtype="float32",
        max_input_tokens=4096,
        vision_heads=vision_heads,
    )


def items(critic: LlavaOnevisionCritic) -> list[PreparedPrompt]:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    image = questions.RawImage("RGB", 60, 90, pixels.tobytes())
    queries = [
        questions.score_query(critic.card, "What is this?", "A seven.", image),
        questions.pair_query(critic.card, "How much is 2 + 2?", "4", "5"),
    ]
    found = critic.prepare(queries)
    assert all(isinstance(item, PreparedPrompt) for item in found)
    return [item for item in found if isinstance(item, PreparedPrompt)]


def test_every_tensor_has_its_bytes_under_another_name(original: Path, exported: Path) -> None:
    before, after = tensors_of(original), tensors_of(exported)
    size = read_tokenizer(exported).size
    assert {exporting._renamed(name) for name in before} == after.keys()
    assert size < len(before["lm_head.weight"]), "there are padding rows to be left out"
    for name, tensor in before.items():
        renamed = exporting._renamed(name)
        kept = tensor[:size] if renamed in ROWS else tensor
        assert after[renamed].dtype == tensor.dtype
        assert as_bytes(after[renamed]) == as_bytes(kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_stay_halves(copy: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    path = copy / "model.safetensors"
    halves = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(halves, path, {"format": "pt"})
    export(copy, tmp_path / "out", VISION_HEADS)
    after = tensors_of(tmp_path / "out")
    for name, tensor in halves.items():
        found = after[exporting._renamed(name)]
        assert as_bytes(found) == as_bytes(tensor[: len(found)])


def test_both_give_the_same_log_probabilities(original: Path, exported: Path) -> None:
    before, after = load(original, VISION_HEADS), load(exported)
    for one, other in zip(items(before), items(after), strict=True):
        assert one.token_ids == other.token_ids
        logits = before.next_logits(one), after.next_logits(other)
        log_probs = [each - np.logaddexp.reduce(each.astype(np.float64)) for each in logits]
        np.testing.assert_allclose(log_probs[0], log_probs[1], rtol=0, atol=TOLERANCE)
    for found, wanted in zip(
        after.forward(items(after)), before.forward(items(before)), strict=True
    ):
        np.testing.assert_allclose(
            found.answer_log_probs, wanted.answer_log_probs, rtol=0, atol=TOLERANCE
        )


def test_shards_are_read_and_written(
    copy: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(copy, 3)
    monkeypatch.setattr(exporting, "SHARD_BYTES", 10**6)
    export(copy, tmp_path / "out", VISION_HEADS)
    found, wanted = tensors_of(tmp_path / "out"), tensors_of(exported)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert load(tmp_path / "out").card.family == "llava_onevision"


def test_memory_holds_a_piece_at_a_time(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    monkeypatch.setattr(exporting, "CHUNK_BYTES", 1 << 12)
    export(copy, tmp_path / "first", VISION_HEADS)  # what is imported is not counted
    tracemalloc.start()
    tensors = list(exporting._tensors(copy))
    exporting._write_shard(tmp_path / "shard.safetensors", tensors)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(tensor.nbytes for tensor in tensors) > 10 * most


def without_image(directory: Path) -> None:
    """As lmms-lab publishes it: the tokenizer does not know the placeholder."""
    for name in ("tokenizer.json", "added_tokens.json", "tokenizer_config.json"):
        path = directory / name
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if name == "tokenizer.json":
            told["added_tokens"] = [t for t in told["added_tokens"] if t["content"] != "<image>"]
        elif name == "added_tokens.json":
            told.pop("<image>", None)
        path.write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize("has_room", [True, False], ids=["a padding row", "no padding"])
def test_the_placeholder_is_added_where_the_tokenizer_has_none(
    copy: Path, tmp_path: Path, has_room: bool
) -> None:
    without_image(copy)
    size = read_tokenizer(copy).size
    if not has_room:
        path = copy / "model.safetensors"
        cut = {
            name: tensor[:size].clone()
            if name.endswith(("tokens.weight", "head.weight"))
            else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(cut, path, {"format": "pt"})
    export(copy, tmp_path / "out", VISION_HEADS)
    tokenizer = read_tokenizer(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert tokenizer.added["<image>"] == size == config["image_token_index"]
    assert config["text_config"]["vocab_size"] == size + 1
    for name in ROWS:
        rows = tensors_of(tmp_path / "out")[name]
        assert len(rows) == size + 1
        assert bool(rows[-1].any()) == has_room
    assert load(tmp_path / "out").card.sees_images


def test_an_export_is_there_whole_or_not_at_all(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(target: Path, *_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as full:
        full.setattr(exporting, "_write_settings", broken)
        with pytest.raises(OSError, match="no space"):
            export(copy, tmp_path / "out", VISION_HEADS)
    assert not (tmp_path / "out").exists()
    export(copy, tmp_path / "out", VISION_HEADS)
    with pytest.raises(ValueError, match="it exists"):
        export(copy, tmp_path / "out", VISION_HEADS)


def test_other_layouts_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="original LLaVA-NeXT layout"):
        export(exported, tmp_path / "out")


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "llava-critic-7b"
    with pytest.raises(ValueError, match=f"--model {nowhere}: no such directory"):
        export(nowhere, tmp_path / "out")


def test_unknown_tensors_are_refused_by_name(copy: Path, tmp_path: Path) -> None:
    path = copy / "model.safetensors"
    save_file(load_file(path) | {"model.strange.weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.strange\.weight"):
        export(copy, tmp_path / "out", VISION_HEADS)
    assert not (tmp_path / "out").exists()


def test_the_command_exports(original: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "adjudge_server", "export", "--model", str(original)]
    command += ["--vision-heads", str(VISION_HEADS), "--to", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with safe_open(next((tmp_path / "out").glob("*.safetensors")), "pt") as file:
        assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in file.keys()  # noqa: SIM118
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "it exists" in again.stderr
