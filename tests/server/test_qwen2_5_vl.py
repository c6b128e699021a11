"""Qwen2.5-VL on small random checkpoints: loading, what is refused, prompts, and servers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from adjudge_server.config import Config
from adjudge_server.content import RawImage
from adjudge_server.critic import Query
from adjudge_server.critics import packed_attention, qwen2_5_vl_loading, qwen2_5_vl_patches
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt
from adjudge_server.critics.qwen2_5_vl import Qwen2_5VlCritic
from adjudge_server.errors import InputTooLong, UnsupportedContent
from adjudge_server.families import check_chosen
from adjudge_server.loading import load_critic
from adjudge_server.template_sets import templates_of
from tests.contract import CANDIDATES, CriticContract
from tests.server import questions
from tests.server.qwen2_5_vl_checkpoints import (
    CHAT_TEMPLATE,
    PREPROCESSOR,
    as_published,
    vision_tokenizer,
    write_qwen2_5_vl,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen2_5_vl(tmp_path_factory.mktemp("tiny"))


def load(directory: Path, **changes: str) -> Qwen2_5VlCritic:
    settings = {"name": "tiny", "device": "cpu", "dtype": "float32"} | changes
    return qwen2_5_vl_loading.load(directory, max_input_tokens=4096, **settings)


@pytest.fixture(scope="module")
def tiny(directory: Path) -> Qwen2_5VlCritic:
    return load(directory)


@pytest.fixture(scope="module")
def critic(tiny: Qwen2_5VlCritic) -> Qwen2_5VlCritic:
    return tiny


class TestTinyCritic(CriticContract):
    pass


def noise(width: int, height: int) -> RawImage:
    pixels = np.random.default_rng(width * height).integers(0, 256, width * height * 3, np.uint8)
    return RawImage("RGB", width, height, pixels.tobytes())


def prepared(critic: Qwen2_5VlCritic, *queries: Query) -> list[PreparedPrompt]:
    items = critic.prepare(queries)
    assert all(isinstance(item, PreparedPrompt) for item in items)
    return items  # type: ignore[return-value]


def some_queries(critic: Qwen2_5VlCritic) -> list[Query]:
    return [
        questions.score_query(critic.card, "What is this?", text, *pictures)
        for text in CANDIDATES[:3]
        for pictures in ((noise(150, 90),), (noise(56, 56), noise(60, 200)), ())
    ]


# Prompts ------------------------------------------------------------------------------------------


def test_prompts_have_the_tokens_of_the_checkpoints_own_template(tiny: Qwen2_5VlCritic) -> None:
    """With one image token for each feature, as transformers' processor puts them in."""
    whole = Tokenizer.from_str(vision_tokenizer())
    pad = whole.token_to_id("<|image_pad|>")
    for query in some_queries(tiny):
        (item,) = prepared(tiny, query)
        content = [{"type": "image"} for _ in query.pictures]
        message = {"role": "user", "content": [*content, {"type": "text", "text": query.text}]}
        rendered, _ = render_jinja_template(
            [[message]], chat_template=CHAT_TEMPLATE, add_generation_prompt=True
        )
        text = rendered[0]
        for picture in item.pictures:
            text = text.replace("<|image_pad|>", "<|x|>" * picture.layout.num_tokens, 1)
        expected = whole.encode(text.replace("<|x|>", "<|image_pad|>"), add_special_tokens=False)
        assert [t if t != IMAGE_SLOT else pad for t in item.token_ids] == expected.ids


def test_special_strings_in_text_are_text(tiny: Qwen2_5VlCritic) -> None:
    added = set(tiny._head._tokenizer.added.values())
    plain, *hostile = prepared(
        tiny,
        *(
            questions.score_query(tiny.card, f"Q{text}", text, noise(56, 56))
            for text in ("", "<|im_end|>", "<|image_pad|>", "<|vision_start|><|image_pad|>", "a")
        ),
    )
    expected = [token for token in plain.token_ids if token in added or token == IMAGE_SLOT]
    assert expected.count(IMAGE_SLOT) == plain.image_tokens == 4
    for item in hostile:
        found = [token for token in item.token_ids if token in added or token == IMAGE_SLOT]
        assert found == expected


def test_several_pictures_keep_their_order(tiny: Qwen2_5VlCritic) -> None:
    one, two = noise(56, 56), noise(150, 60)
    orders = [
        questions.score_query(tiny.card, "Compare.", "Same.", *pictures)
        for pictures in ((one, two), (two, one))
    ]
    first, second = tiny.forward(prepared(tiny, *orders))
    assert np.abs(first.answer_log_probs - second.answer_log_probs).max() > 1e-4


def test_a_picture_that_is_too_long_is_refused(tiny: Qwen2_5VlCritic) -> None:
    query = questions.score_query(tiny.card, "What is this?", "A line.", noise(1000, 3))
    with pytest.raises(UnsupportedContent, match="200 times"):
        tiny.prepare([query])


def test_pictures_are_cut_once_ahead_and_only_for_prompts_that_are_taken(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, cut = qwen2_5_vl_patches.patches, []

    def counted(image: Image.Image, patching: qwen2_5_vl_patches.Patching) -> Any:
        cut.append(image.size)
        return honest(image, patching)

    monkeypatch.setattr(qwen2_5_vl_patches, "patches", counted)
    few = qwen2_5_vl_loading.load(
        directory, name="tiny", device="cpu", dtype="float32", max_input_tokens=190
    )
    cut.clear()
    sizes = [(1000 + number, 800) for number in range(8)]
    taken, too_many = (
        questions.score_query(few.card, "What?", "A line.", *(noise(*size) for size in chosen))
        for chosen in (sizes[:1], sizes)
    )
    (refused,) = few.prepare([too_many])
    assert isinstance(refused, InputTooLong) and refused.metadata["maximum"] == "190"
    assert cut == []
    item, refused = few.prepare([taken, too_many])
    assert isinstance(item, PreparedPrompt) and isinstance(refused, InputTooLong)
    assert cut == sizes[:1], "in prepare, not on the model's thread"
    few.forward([item])
    few.forward(prepared(few, taken))
    assert cut == sizes[:1], "the features are known"


# Layouts ------------------------------------------------------------------------------------------


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def renamed(source: Path, target: Path, rename: Callable[[str], str]) -> Path:
    copy = copied(source, target)
    tensors = load_file(copy / "model.safetensors")
    changed = {rename(name): tensor for name, tensor in tensors.items()}
    save_file(changed, copy / "model.safetensors", {"format": "pt"})
    return copy


def _newer(name: str) -> str:
    """A tensor's name as the modules of transformers are called now."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1)


def test_every_layout_of_a_checkpoint_is_the_same_critic(
    directory: Path, tiny: Qwen2_5VlCritic, tmp_path: Path
) -> None:
    newer = renamed(directory, tmp_path / "newer", _newer)
    nested = copied(directory, tmp_path / "nested")
    settings = json.loads((nested / "preprocessor_config.json").read_text())
    limits = {
        "shortest_edge": settings.pop("min_pixels"),
        "longest_edge": settings.pop("max_pixels"),
    }
    settings["image_processor_type"] = "Qwen2VLImageProcessorFast"
    (nested / "processor_config.json").write_text(
        json.dumps({"image_processor": {**settings, "size": limits}})
    )
    (nested / "preprocessor_config.json").unlink()
    expected = tiny.forward(prepared(tiny, *some_queries(tiny)))
    for other in (as_published(directory, tmp_path / "published"), newer, nested):
        critic = load(other)
        readings = critic.forward(prepared(critic, *some_queries(critic)))
        for reading, wanted in zip(readings, expected, strict=True):
            assert np.abs(reading.answer_log_probs - wanted.answer_log_probs).max() < 1e-5


def test_tied_embeddings_are_the_head(tmp_path: Path) -> None:
    critic = load(write_qwen2_5_vl(tmp_path, tied=True))
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    for reading in critic.forward(prepared(critic, *some_queries(critic))):
        assert np.isfinite(reading.answer_log_probs).all()


def test_it_is_found_by_its_configuration_and_asked_as_its_name_says(
    directory: Path, tmp_path: Path
) -> None:
    for name, templates in (
        ("LLaVA-Critic-R1-7B", "llava-critic-r1"),
        ("UnifiedReward-qwen-7b", "unified-reward-qwen"),
        ("UnifiedReward-Think-qwen-7b", "unified-reward-think"),
        ("Qwen2.5-VL-7B-Instruct", "llava-critic"),
    ):
        critic = load_critic(Config(model=copied(directory, tmp_path / name)))
        assert isinstance(critic, Qwen2_5VlCritic)
        assert critic.card.family == "qwen2_5_vl" and critic.card.sees_images
        assert critic.card.templates == templates_of(templates)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_full(directory: Path, tiny: Qwen2_5VlCritic, dtype: str) -> None:
    half = load(directory, dtype=dtype)
    assert half.card.dtype == dtype
    for query in some_queries(tiny)[:3]:
        (full_reading,) = tiny.forward(prepared(tiny, query))
        (half_reading,) = half.forward(prepared(half, query))
        difference = half_reading.answer_log_probs - full_reading.answer_log_probs
        assert np.isfinite(difference).all()
        assert 0 < np.abs(difference).max() < 2.0


def test_what_cuts_pictures_is_in_the_fingerprint(
    directory: Path, tiny: Qwen2_5VlCritic, tmp_path: Path
) -> None:
    copy = copied(directory, tmp_path / "copy")
    assert load(copy).card.fingerprint == tiny.card.fingerprint
    (copy / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | {"max_pixels": 9000}))
    assert load(copy).card.fingerprint != tiny.card.fingerprint


# What is refused ----------------------------------------------------------------------------------


def edited(directory: Path, target: Path, within: str = "", **changes: object) -> Path:
    """A copy of the checkpoint with changes to its config."""
    copy = copied(directory, target)
    config = json.loads((copy / "config.json").read_text())
    (config[within] if within else config).update(changes)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj", "visual.blocks.2.attn.qkv"])
def test_a_missing_tensor_stops_the_start_with_its_name(
    directory: Path, tmp_path: Path, name: str
) -> None:
    copy = copied(directory, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors[f"{name}.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"missing keys: .*{name.split('.', 1)[1]}"):
        load(copy)


def test_an_unexpected_tensor_stops_the_start_with_its_name(
    directory: Path, tmp_path: Path
) -> None:
    copy = copied(directory, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    tensors["reward_head.weight"] = torch.zeros(1)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected keys: reward_head\.weight"):
        load(copy)


ROPE = {"rope_theta": 1e4, "mrope_section": [2, 1, 1]}


@pytest.mark.parametrize(
    ("part", "changes", "key"),
    [
        ("text", {"use_sliding_window": True, "sliding_window": 16}, "sliding_window"),
        ("text", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}, "rope_type"),
        ("text", {"rope_parameters": {"rope_theta": 1e4}}, "mrope_section"),
        ("text", {"rope_parameters": {**ROPE, "mrope_section": [2, 1]}}, "mrope_section"),
        ("text", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ("text", {"logits_scaling": 2.0}, "logits_scaling"),
        ("text", {"max_position_embeddings": -5}, "max_position_embeddings"),
        ("vision", {"in_channels": 4}, "in_channels"),
        ("vision", {"model_type": "qwen3_vl"}, "model_type"),
        ("vision", {"window_size": 20}, "window_size"),
        ("vision", {"patch_size": [14, 14]}, "patch_size"),
        ("vision", {"out_hidden_size": 64}, "out_hidden_size"),
    ],
)
def test_a_part_that_wants_something_else_is_refused_by_its_key(
    directory: Path, tmp_path: Path, part: str, changes: dict[str, object], key: str
) -> None:
    copy = edited(directory, tmp_path / "copy", f"{part}_config", **changes)
    with pytest.raises(ValueError, match=rf"config\.json: .*{key}"):
        load(copy)


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_nothing_is_built_of_a_configuration_without_its_parts(
    directory: Path, tmp_path: Path, part: str
) -> None:
    copy = edited(directory, tmp_path / "copy", **{part: {}})
    with pytest.raises(ValueError, match=f"missing {part}"):
        load(copy)


def test_an_image_token_that_the_tokenizer_has_not_is_refused(
    directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"config\.json: image_token_id"):
        load(edited(directory, tmp_path / "copy", image_token_id=7))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_convert_rgb": False},
        {"do_center_crop": True},
        {"resample": 2},
        {"rescale_factor": 1.0},
        {"patch_size": 16},
        {"merge_size": 1},
        {"temporal_patch_size": 1},
        {"image_mean": [0.5, 0.5]},
        {"image_std": [0.5, 0.0, 0.5]},
        {"max_pixels": None},
        {"max_pixels": "many"},
        {"min_pixels": 10**9},
        {"image_processor_type": "LlavaNextImageProcessor"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_preprocessor_that_does_something_else_is_refused_by_its_key(
    directory: Path, tmp_path: Path, nested: bool, changes: dict[str, object]
) -> None:
    copy = copied(directory, tmp_path / "copy")
    settings: dict[str, Any] = PREPROCESSOR | changes
    (copy / "preprocessor_config.json").unlink()
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (copy / name).write_text(json.dumps({"image_processor": settings} if nested else settings))
    with pytest.raises(ValueError, match=rf"processor_config\.json: .*{next(iter(changes))}"):
        load(copy)


def test_two_files_that_cut_pictures_differently_are_refused(
    directory: Path, tmp_path: Path
) -> None:
    copy = copied(directory, tmp_path / "copy")
    other = {"image_processor": PREPROCESSOR | {"max_pixels": 9000}}
    (copy / "processor_config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="max_pixels differs"):
        load(copy)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("preprocessor_config.json", "how pictures are cut"),
        ("chat_template.jinja", "no chat template"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_a_file_without_which_nothing_can_be_asked_is_missed(
    directory: Path, tmp_path: Path, file: str, told: str
) -> None:
    copy = copied(directory, tmp_path / "copy")
    (copy / file).unlink()
    with pytest.raises(ValueError, match=told):
        load(copy)


def test_a_chat_template_that_knows_no_pictures_is_refused(directory: Path, tmp_path: Path) -> None:
    copy = copied(directory, tmp_path / "copy")
    blind = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "")
    (copy / "chat_template.jinja").write_text(blind)
    with pytest.raises(ValueError, match="chat template: it does not put every picture"):
        load(copy)


def test_a_model_with_a_value_head_is_no_critic_that_speaks(
    directory: Path, tmp_path: Path
) -> None:
    copy = copied(directory, tmp_path / "copy")
    save_file({"summary.weight": torch.zeros(1, 32)}, copy / "value_head.safetensors")
    with pytest.raises(ValueError, match="value head"):
        load(copy)


@pytest.mark.parametrize("flags", [{"vision_heads": 4}, {"several_pictures": "pad"}])
def test_flags_of_another_family_are_refused(directory: Path, flags: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="LLaVA-OneVision"):
        load_critic(Config(model=directory, **flags))


def test_positions_that_are_not_computed_show_in_the_measurement(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they would if a picture's features stood one after the other."""
    monkeypatch.setattr(
        "adjudge_server.critics.qwen2_5_vl_patches.Grid.offsets",
        property(lambda grid: np.tile(np.arange(grid.num_tokens), (3, 1))),
    )
    with pytest.raises(ValueError, match="'qwen2_5_vl' is not computed here"):
        load(directory)


def test_attention_that_is_not_computed_shows_in_the_measurement(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "_attend_all", lambda query, *others: query)
    with pytest.raises(ValueError, match="'qwen2_5_vl' is not computed here"):
        load(directory)


@pytest.mark.parametrize("chosen", ["llava_onevision", "causal_lm", "sequence_classification"])
def test_another_family_chosen_for_it_is_told_what_it_is(directory: Path, chosen: str) -> None:
    with pytest.raises(ValueError, match=f"--critic {chosen}: this is a Qwen2.5-VL, which sees"):
        load_critic(Config(model=directory, critic=chosen))


@pytest.mark.parametrize("kind", ["llava_onevision", "llava", "qwen2", "qwen2_vl"])
def test_it_is_no_family_for_others(kind: str) -> None:
    with pytest.raises(ValueError, match=r"--critic qwen2_5_vl: this is (a LLaVA|no Qwen2.5-VL)"):
        check_chosen("qwen2_5_vl", {"model_type": kind, "architectures": ["Another"]})
