"""Checkpoints in the original LLaVA-NeXT layout, and what is said of those that cannot be had."""

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionForConditionalGeneration

from adjudge_server.config import Config
from adjudge_server.content import EncodedImage
from adjudge_server.critic import Reading
from adjudge_server.critics import llava_loading
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.loading import load_critic
from tests.conftest import SEVEN
from tests.server import questions

ORIGINAL = Path(__file__).parent.parent / "golden" / "data" / "checkpoint"
Tensors = dict[str, torch.Tensor]


def load(directory: Path, **options: Any) -> LlavaOnevisionCritic:
    settings = {"dtype": "float32", "vision_heads": 4, **options}
    return llava_loading.load(
        directory, name="tiny", device="cpu", max_input_tokens=4096, **settings
    )


def read(critic: LlavaOnevisionCritic) -> Reading:
    query = questions.score_query(
        critic.card, "What is this?", "A seven.", EncodedImage(SEVEN.read_bytes())
    )
    (item,) = critic.prepare([query])
    assert isinstance(item, PreparedPrompt)
    return critic.forward([item])[0]


@pytest.fixture(scope="module")
def expected() -> Reading:
    return read(load(ORIGINAL))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for file in ORIGINAL.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def configure(directory: Path, without: tuple[str, ...] = (), **changes: object) -> None:
    path = directory / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in without}
    path.write_text(json.dumps(config | changes))


def rewrite(directory: Path, change: Callable[[Tensors], Mapping[str, torch.Tensor]]) -> None:
    path = directory / "model.safetensors"
    save_file(dict(change(load_file(path))), path, {"format": "pt"})


def shard(directory: Path, count: int) -> list[Path]:
    """Splits the one file into shards with an index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    placed = {name: names[i % count] for i, name in enumerate(tensors)}
    for file in names:
        held = {name: tensor for name, tensor in tensors.items() if placed[name] == file}
        save_file(held, directory / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": placed}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return [directory / name for name in names]


def assert_equal(reading: Reading, expected: Reading) -> None:
    assert np.array_equal(reading.answer_log_probs, expected.answer_log_probs)


# The same model, written otherwise ----------------------------------------------------------------


def test_shards_are_one_checkpoint(copy: Path, expected: Reading) -> None:
    shard(copy, 3)
    assert_equal(read(load(copy)), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llava_qwen"},
        {"text_config": {"model_type": "llama"}},
        {"some_key_of_next_year": [1, {"a": None}], "transformers_version": "9.9"},
        {"vocab_size": 4711},
        {"image_grid_pinpoints": "(1x1),...,(6x6)"},
        {"mm_vision_tower": "/somebody/elses/siglip-so400m-patch14-384"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_configurations_of_the_wild_mean_the_same(
    copy: Path, expected: Reading, changes: dict[str, object]
) -> None:
    configure(copy, **changes)
    assert_equal(read(load(copy)), expected)


@pytest.mark.parametrize(
    "key",
    [
        "architectures",
        "hidden_size",
        "image_token_index",
        "intermediate_size",
        "mm_use_im_patch_token",
        "num_hidden_layers",
        "vocab_size",
    ],
)
def test_what_the_configuration_leaves_out_is_inferred(
    copy: Path, expected: Reading, key: str
) -> None:
    configure(copy, without=(key,))
    assert_equal(read(load(copy)), expected)


def test_pictures_that_are_padded_need_no_grids(copy: Path) -> None:
    configure(copy, without=("image_grid_pinpoints",), image_aspect_ratio="pad")
    critic = load(copy)
    query = questions.score_query(
        critic.card, "What?", "A seven.", EncodedImage(SEVEN.read_bytes())
    )
    (item,) = critic.prepare([query])
    assert isinstance(item, PreparedPrompt)
    assert item.image_tokens == 27 * 27 + 1
    assert np.isfinite(critic.forward([item])[0].answer_log_probs).all()


def test_a_tokenizer_without_tokenizer_json_has_the_same_ids(copy: Path, expected: Reading) -> None:
    (copy / "tokenizer.json").unlink()
    assert_equal(read(load(copy)), expected)


def test_a_token_that_only_the_older_file_knows_is_an_added_token(
    copy: Path, expected: Reading
) -> None:
    path = copy / "tokenizer.json"
    definition = json.loads(path.read_text())
    kept = [token for token in definition["added_tokens"] if token["content"] != "<image>"]
    assert len(kept) < len(definition["added_tokens"])
    path.write_text(json.dumps(definition | {"added_tokens": kept}))
    assert_equal(read(load(copy)), expected)


@pytest.mark.parametrize("style", ["new", "new, vision_model", "old"])
def test_both_layouts_of_transformers_are_the_same_model(
    copy: Path, tmp_path_factory: pytest.TempPathFactory, expected: Reading, style: str
) -> None:
    converted = tmp_path_factory.mktemp("converted")
    raw = json.loads((copy / "config.json").read_text())
    config, mapping = llava_loading.configuration(copy, raw, 4)
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(
        copy, config=config, key_mapping=mapping
    )
    config.save_pretrained(converted)
    tensors = {RENAMED[style](n): t.contiguous() for n, t in model.state_dict().items()}
    save_file(tensors, converted / "model.safetensors", {"format": "pt"})
    shutil.copyfile(copy / "tokenizer.json", converted / "tokenizer.json")
    assert_equal(read(load(converted, vision_heads=None)), expected)


def _vision_model(name: str) -> str:
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def _old(name: str) -> str:
    """As conversion scripts wrote them before transformers 4.52."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return _vision_model(name)


RENAMED: dict[str, Callable[[str], str]] = {
    "new": lambda name: name,
    "new, vision_model": _vision_model,
    "old": _old,
}


# What cannot be had, by name ----------------------------------------------------------------------

PROJECTOR = "model.mm_projector.0.weight"


def test_a_missing_tensor_is_named(copy: Path) -> None:
    rewrite(copy, lambda tensors: {n: t for n, t in tensors.items() if n != PROJECTOR})
    with pytest.raises(ValueError, match=r"missing keys: .*linear_1\.weight"):
        load(copy)


def test_a_layer_that_is_not_there_is_missed(copy: Path) -> None:
    rewrite(copy, lambda tensors: {n: t for n, t in tensors.items() if ".layers.1." not in n})
    with pytest.raises(ValueError, match=r"missing keys: .*layers\.1\."):
        load(copy)


@pytest.mark.parametrize(
    "key",
    [
        "rope_theta",
        "rms_norm_eps",
        "num_attention_heads",
        "image_aspect_ratio",
        "image_grid_pinpoints",
    ],
)
def test_what_no_weight_tells_must_be_in_the_configuration(copy: Path, key: str) -> None:
    configure(copy, without=(key,))
    with pytest.raises(ValueError, match=f"missing {key}"):
        load(copy)


def test_a_checkpoint_without_its_vision_tower_is_refused(copy: Path) -> None:
    rewrite(copy, lambda tensors: {n: t for n, t in tensors.items() if "vision_tower" not in n})
    with pytest.raises(ValueError, match=r"missing keys: .*vision_tower"):
        load(copy)


def test_an_unexpected_tensor_is_named(copy: Path) -> None:
    rewrite(copy, lambda tensors: tensors | {"model.rm_head.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"unexpected keys: model\.rm_head\.weight"):
        load(copy)


def test_a_tensor_of_another_shape_is_named(copy: Path) -> None:
    rewrite(copy, lambda tensors: tensors | {PROJECTOR: tensors[PROJECTOR][:, :-1].contiguous()})
    with pytest.raises(ValueError, match=r"linear_1\.weight"):
        load(copy)


def test_a_shard_that_is_not_there_is_named(copy: Path) -> None:
    shard(copy, 3)[1].unlink()
    with pytest.raises(ValueError, match=r"missing shards: model-00002-of-00003\.safetensors"):
        load(copy)


def test_two_sets_of_weights_in_one_folder_are_refused(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    shard(copy, 2)
    (copy / "model.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match="which are the weights"):
        load(copy)


@pytest.mark.parametrize("left", [4, 1000, -100])
def test_a_file_cut_short_is_named(copy: Path, left: int) -> None:
    path = shard(copy, 2)[1]
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors"):
        load(copy)


def test_pickled_weights_are_not_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights: pytorch_model\.bin"):
        load(copy)


def test_heads_that_no_file_tells_are_asked_for(copy: Path) -> None:
    with pytest.raises(ValueError, match="--vision-heads"):
        load(copy, vision_heads=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"mm_projector_type": "linear"},
        {"mm_patch_merge_type": "flat"},
        {"mm_newline_position": "grid"},
        {"mm_use_im_start_end": True},
        {"mm_resampler_type": "spatial_pool"},
        {"image_aspect_ratio": "square"},
        {"use_sliding_window": True},
        {"is_rm": True},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"attn_logit_softcapping": 50.0},
        {"logits_scaling": 2.0},
        {"max_position_embeddings": -1},
        {"image_aspect_ratio": "anyres_max_0"},
        {"image_aspect_ratio": "anyres_max_²"},
        {"image_grid_pinpoints": []},
        {"image_grid_pinpoints": [[384]]},
        {"image_grid_pinpoints": [384, 768]},
        {"image_grid_pinpoints": [[384, 384], [384, 400]]},
        {"image_grid_pinpoints": [[384, "768"]]},
        {"image_grid_pinpoints": 384},
        {"image_grid_pinpoints": "abc"},
        {"image_grid_pinpoints": "(0x0),...,(1x1)"},
        {"image_grid_pinpoints": "(2x2),...,(1x1)"},
        {"image_grid_pinpoints": "(1x1),...,(2000x2000)"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_not_computed_is_refused_by_its_key(copy: Path, changes: dict[str, object]) -> None:
    configure(copy, **changes)
    with pytest.raises(ValueError, match=next(iter(changes))):
        load(copy)


def test_a_conversion_to_plain_llava_is_refused_with_the_reason(copy: Path) -> None:
    plain = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_seq_length": 576,
    }
    (copy / "config.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"one square of 576 tokens and no tiles"):
        load_critic(Config(model=copy))


def test_a_model_of_no_family_is_refused_by_its_class(copy: Path) -> None:
    (copy / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    with pytest.raises(ValueError, match="BertModel"):
        load_critic(Config(model=copy))


# Promises -----------------------------------------------------------------------------------------


def test_a_path_never_touches_the_network(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def refuse(*_: object) -> None:
        raise AssertionError("somebody opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_critic(Config(model=copy, vision_heads=4))


def test_a_checkpoint_may_be_overwritten_while_it_is_served(copy: Path, expected: Reading) -> None:
    critic = load(copy)
    path = copy / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert_equal(read(critic), expected)
    path.write_bytes(b"")
    critic.forget()  # what is remembered would answer for the weights
    assert_equal(read(critic), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_never_runs_eager_attention(copy: Path, dtype: str) -> None:
    critic = load(copy, dtype=dtype)
    used = {
        module.config._attn_implementation
        for model in (critic.decoder._language, critic._vision._tower)
        for module in model.modules()
        if hasattr(module, "config")
    }
    assert used == {"adjudge_packed", "sdpa"}


@pytest.mark.parametrize(
    ("flag", "value"), [("device", "gpu"), ("dtype", "bf16"), ("dtype", "int8")]
)
def test_a_device_or_number_type_that_is_none_is_named(copy: Path, flag: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"--{flag} {value}"):
        load_critic(Config(model=copy, vision_heads=4, **{flag: value}))  # type: ignore[arg-type]


def test_a_repetition_penalty_comes_from_the_checkpoint_unless_told(copy: Path) -> None:
    (copy / "generation_config.json").write_text('{"repetition_penalty": 1.5}')
    assert load(copy)._repetition_penalty == 1.5
    assert load(copy, repetition_penalty=1.1)._repetition_penalty == 1.1
    assert load(ORIGINAL)._repetition_penalty == 1.0
