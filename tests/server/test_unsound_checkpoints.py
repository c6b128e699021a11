"""What stops a start: one line that names the cause, whatever the family."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adjudge_server.config import Config
from adjudge_server.loading import load_critic
from adjudge_server.serve import Server
from tests.server import checkpoints
from tests.server.test_llava_original import ORIGINAL, shard

FAMILIES = ("causal_lm", "sequence_classification", "llava_onevision", "original")
GRIDS = [[56, 56], [56, 112]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sound")
    tokenizer = checkpoints.tiny_tokenizer()
    return {
        "causal_lm": checkpoints.write_text_model(folder / "causal_lm"),
        "sequence_classification": checkpoints.write_text_model(folder / "scalar", scalar=True),
        "llava_onevision": checkpoints.write_checkpoint(folder / "ov", tokenizer, grids=GRIDS),
        "original": ORIGINAL,
    }


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def copy(sound: dict[str, Path], family: str, tmp_path: Path) -> Path:
    return copied(sound[family], tmp_path / "copy")


def copied(directory: Path, target: Path) -> Path:
    target.mkdir()
    for file in directory.iterdir():
        shutil.copyfile(file, target / file.name)
    return target


def refused(directory: Path, **settings: Any) -> str:
    """What is said of it, which is one line."""
    if "mm_vision_tower" in (directory / "config.json").read_text():
        settings = {"vision_heads": 4, **settings}
    with pytest.raises(ValueError, match="--model") as caught:
        load_critic(Config(model=directory, **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


def configure(directory: Path, within: str = "", file: str = "config.json", **keys: object) -> None:
    whole = json.loads((directory / file).read_text())
    (whole[within] if within else whole).update(keys)
    write(directory / file, whole)


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def a_layer(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))


# Weights ------------------------------------------------------------------------------------------


def test_a_tensor_in_two_shards_is_named(copy: Path) -> None:
    first, second = shard(copy, 2)
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor * 3}, second, {"format": "pt"})
    assert f"{name} lies in another shard too" in refused(copy)


def test_a_tensor_that_lies_elsewhere_than_its_index_says_is_named(copy: Path) -> None:
    first, second = shard(copy, 2)
    path = copy / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = next(name for name, file in index["weight_map"].items() if file == first.name)
    index["weight_map"][name] = second.name
    write(path, index)
    assert f"{name} is in {first.name}, not in {second.name}" in refused(copy)


@pytest.mark.parametrize("family", ["causal_lm"], indirect=True)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: index["weight_map"], "weight_map"),
        (lambda index: {**index, "weight_map": [*index["weight_map"]]}, "weight_map"),
        (
            lambda index: {**index, "weight_map": dict.fromkeys(index["weight_map"], 5)},
            "weight_map",
        ),
        (lambda index: {"weight_map": index["weight_map"]}, "metadata"),
        (lambda index: [index], "not a JSON object"),
    ],
)
def test_an_index_that_is_none_is_refused(
    copy: Path, change: Callable[[Any], object], told: str
) -> None:
    shard(copy, 2)
    path = copy / "model.safetensors.index.json"
    write(path, change(json.loads(path.read_text())))
    assert f"model.safetensors.index.json: {told}" in refused(copy)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32])
def test_weights_that_are_no_plain_numbers_are_refused_by_name_and_type(
    copy: Path, dtype: torch.dtype
) -> None:
    names: list[str] = []

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        names.append(a_layer(tensors))
        tensors[names[0]] = tensors[names[0]].to(dtype)

    rewrite(copy, quantise)
    told = refused(copy)
    assert names[0] in told and "quantised weights are not implemented" in told


def test_a_configuration_of_quantised_weights_is_refused(copy: Path) -> None:
    configure(copy, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantization_config" in refused(copy)


@pytest.mark.parametrize(
    "family", sorted(set(FAMILIES) - {"sequence_classification"}), indirect=True
)
def test_a_tied_head_must_be_the_embeddings(copy: Path) -> None:
    configure(copy, tie_word_embeddings=True)
    assert "lm_head.weight is not equal to" in refused(copy)

    def tie(tensors: dict[str, torch.Tensor]) -> None:
        (embeddings,) = (n for n in tensors if n.endswith("embed_tokens.weight"))
        tensors["lm_head.weight"] = tensors[embeddings].clone()

    rewrite(copy, tie)
    heads = {"vision_heads": 4} if "mm_vision" in (copy / "config.json").read_text() else {}
    load_critic(Config(model=copy, **heads))


# What belongs to them -----------------------------------------------------------------------------


def test_a_token_without_an_embedding_is_named(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zq"] = 90_000
    write(copy / "tokenizer.json", tokenizer)
    assert "'zq' (90000)" in refused(copy)


def test_an_added_token_without_an_embedding_is_named(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    token = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"].append({**token, "content": "<|more|>", "id": 90_000})
    write(copy / "tokenizer.json", tokenizer)
    assert "'<|more|>' (90000)" in refused(copy)


@pytest.mark.parametrize("family", ["causal_lm", "llava_onevision"], indirect=True)
@pytest.mark.parametrize("penalty", [float("nan"), float("inf"), -1.0, 0, "x", [1.1]])
def test_a_repetition_penalty_that_is_none_is_refused(copy: Path, penalty: object) -> None:
    write(copy / "generation_config.json", {"repetition_penalty": penalty})
    assert "generation_config.json: repetition_penalty" in refused(copy)


@pytest.mark.parametrize("family", ["causal_lm", "llava_onevision"], indirect=True)
def test_an_end_token_that_is_no_id_is_refused(copy: Path) -> None:
    write(copy / "generation_config.json", {"eos_token_id": "</s>"})
    assert "generation_config.json: eos_token_id" in refused(copy)


@pytest.mark.parametrize("file", ["generation_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("family", ["causal_lm"], indirect=True)
def test_files_that_change_what_is_computed_are_in_the_fingerprint(copy: Path, file: str) -> None:
    before = load_critic(Config(model=copy)).card.fingerprint
    write(copy / file, {"repetition_penalty": 1.7})
    assert load_critic(Config(model=copy)).card.fingerprint != before


# Configurations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[]", "5", "{", "null"])
def test_a_configuration_that_is_no_object_is_refused(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    assert "config.json: " in refused(copy)


@pytest.mark.parametrize("names", ["LlamaForCausalLM", [None], {"a": 1}])
@pytest.mark.parametrize("family", ["causal_lm"], indirect=True)
def test_architectures_that_are_no_names_are_refused(copy: Path, names: object) -> None:
    configure(copy, architectures=names)
    assert "architectures" in refused(copy)


@pytest.mark.parametrize("length", [-5, 0, "x", None])
def test_a_context_of_no_tokens_is_refused(copy: Path, family: str, length: object) -> None:
    within = "text_config" if family == "llava_onevision" else ""
    configure(copy, within, max_position_embeddings=length)
    assert "max_position_embeddings" in refused(copy)


# Flags that do not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["causal_lm", "sequence_classification", "llava_onevision"])
def test_a_family_chosen_for_a_checkpoint_of_another_is_told_what_it_is(
    copy: Path, family: str, chosen: str
) -> None:
    sees = family in ("llava_onevision", "original")
    if sees == (chosen == "llava_onevision"):
        pytest.skip("it may be of this family")
    told = refused(copy, critic=chosen)
    name = json.loads((copy / "config.json").read_text())["architectures"][0]
    assert f"--critic {chosen}: this is" in told and name in told


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_nothing_is_built_of_a_configuration_without_its_parts(copy: Path, part: str) -> None:
    """Or transformers would take those of a model of billions of parameters."""
    config = json.loads((copy / "config.json").read_text())
    del config[part]
    write(copy / "config.json", config)
    assert f"missing {part}" in refused(copy)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"original"}), indirect=True)
def test_vision_heads_are_refused_where_they_are_not_used(copy: Path) -> None:
    assert "--vision-heads" in refused(copy, vision_heads=2)


@pytest.mark.parametrize("family", ["sequence_classification"], indirect=True)
def test_a_scalar_head_is_asked_with_no_set_of_templates(copy: Path) -> None:
    assert "--template-set" in refused(copy, template_set="r1-reward")


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), KeyError("layer"), IndexError()])
def test_whatever_is_raised_at_the_first_questions_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(critic: object) -> None:
        raise error

    monkeypatch.setattr("adjudge_server.resident.check", fail)

    async def load() -> None:
        server = Server(Config(critic="fake"))  # wants a loop that runs
        await server.load()

    with pytest.raises(ValueError, match=f"first questions: {type(error).__name__}"):
        asyncio.run(load())
