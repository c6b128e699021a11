"""Loads LLaVA-OneVision critics: as LLaVA-NeXT publishes them, and as transformers does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from adjudge_server.caches import DEFAULT, CacheBytes
from adjudge_server.critic import CriticCard
from adjudge_server.critics import checkpoint, llava_original
from adjudge_server.critics.anyres import Geometry
from adjudge_server.critics.conversation import QWEN_1_5
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.llava_tiles import Tiler
from adjudge_server.critics.llava_vision import LlavaVision
from adjudge_server.critics.preparing import Preparer
from adjudge_server.families import is_original
from adjudge_server.preprocessing import SeveralPictures
from adjudge_server.template_sets import templates_of
from adjudge_server.templates import Template


def load(
    directory: Path,
    *,
    name: str,
    device: str,
    dtype: str,
    max_input_tokens: int,
    templates: Sequence[Template] | None = None,
    several_pictures: SeveralPictures = "anyres",
    vision_heads: int | None = None,
    repetition_penalty: float | None = None,
    caches: CacheBytes = DEFAULT,
) -> LlavaOnevisionCritic:
    """Builds the critic that lies in a directory.

    Raises ValueError, with their names, for tensors that are missing, unexpected or of another
    shape, and for checkpoints that want features this code does not compute.
    """
    raw = checkpoint.read_json(directory / "config.json")
    config, key_mapping = configuration(directory, raw, vision_heads)
    aspect_ratio, max_tiles = _aspect_ratio(config.vision_aspect_ratio)
    tokenizer = checkpoint.read_tokenizer(directory)
    if QWEN_1_5.end not in tokenizer.added:
        raise ValueError(f"the tokenizer has no {QWEN_1_5.end}, which ends a turn")
    model = checkpoint.load_model(
        LlavaOnevisionForConditionalGeneration,
        directory,
        config,
        checkpoint.number_type(dtype, device),
        key_mapping=key_mapping,
    )
    model = checkpoint.place(model, device)
    card = CriticCard(
        name=name,
        revision=directory.name,
        fingerprint=checkpoint.fingerprint(directory),
        family="llava_onevision",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        templates=tuple(templates_of("embedded") if templates is None else templates),
        sees_images=True,
        max_input_tokens=min(max_input_tokens, config.text_config.max_position_embeddings),
    )
    vision = config.vision_config
    geometry = Geometry(
        tile=vision.image_size,
        patch=vision.patch_size,
        # Hugging Face writes (height, width).
        grids=tuple((width, height) for height, width in config.image_grid_pinpoints),
        max_tiles=max_tiles,
    )
    seen = LlavaVision(model.model, caches.features)
    tiler = Tiler(geometry, single=aspect_ratio, several=several_pictures, is_known=seen.knows)
    return LlavaOnevisionCritic(
        model,
        tokenizer,
        Preparer(tokenizer, QWEN_1_5, tiler, card.templates, card.max_input_tokens),
        card,
        checkpoint.end_tokens(
            directory, tokenizer.added[QWEN_1_5.end], config.text_config.eos_token_id
        ),
        repetition_penalty or checkpoint.repetition_penalty(directory),
        seen,
        caches,
    )


def configuration(
    directory: Path, raw: dict[str, Any], vision_heads: int | None
) -> tuple[LlavaOnevisionConfig, dict[str, str] | None]:
    """transformers' configuration, and how tensors are renamed; None where nothing is."""
    if is_original(raw):
        shapes = checkpoint.read_shapes(directory)
        return llava_original.to_config(raw, shapes, vision_heads), llava_original.KEY_MAPPING
    config = LlavaOnevisionConfig.from_pretrained(directory, local_files_only=True)
    _check(config)
    return config, None


def _check(config: LlavaOnevisionConfig) -> None:
    for key, value in {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }.items():
        if (found := getattr(config, key)) != value:
            raise ValueError(f"config.json: {key} is {found!r}, only {value!r} is implemented")
    if config.text_config.use_sliding_window:
        raise ValueError("config.json: use_sliding_window is true, which is not implemented")


def _aspect_ratio(value: str) -> tuple[SeveralPictures, int]:
    """How a single picture is cut, and the tiles beyond which its grid is shrunk."""
    if value == "pad":
        return "pad", 9
    prefix, _, tiles = value.rpartition("_")
    if prefix != "anyres_max" or not tiles.isdigit():
        raise ValueError(
            f"config.json: vision_aspect_ratio (image_aspect_ratio in original ones) is {value!r},"
            " only anyres_max_N and pad are implemented"
        )
    return "anyres", int(tiles)
