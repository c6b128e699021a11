"""Loads LLaVA-OneVision critics: as LLaVA-NeXT publishes them, and as transformers does."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from adjudge_server.caches import DEFAULT, CacheBytes
from adjudge_server.critic import CriticCard
from adjudge_server.critics import causal_body, checkpoint, llava_checks, llava_original
from adjudge_server.critics.anyres import Geometry
from adjudge_server.critics.conversation import QWEN_1_5
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.llava_tiles import Tiler
from adjudge_server.critics.llava_vision import LlavaVision
from adjudge_server.critics.preparing import Preparer
from adjudge_server.critics.reloading import Blueprint, Weights, read_generation, read_tokenizer
from adjudge_server.families import is_original
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.preprocessing import SeveralPictures
from adjudge_server.template_sets import templates_of
from adjudge_server.templates import Template
from adjudge_server.text_files import read_json


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
    read = partial(_read, vision_heads=vision_heads)
    blueprint = read(directory, None)
    config, tokenizer = blueprint.config, blueprint.tokenizer
    max_tiles = llava_checks.aspect_ratio_tiles(config.vision_aspect_ratio)
    model = blueprint.load(directory, checkpoint.number_type(dtype, device))
    checkpoint.check_rows(directory, tokenizer, model.get_input_embeddings().num_embeddings)
    model = checkpoint.place(model, device)
    vision = config.vision_config
    geometry = Geometry(
        tile=vision.image_size,
        patch=vision.patch_size,
        # Hugging Face writes (height, width).
        grids=tuple((width, height) for height, width in config.image_grid_pinpoints),
        max_tiles=max_tiles or 9,
    )
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
        max_tiles=geometry.most_tiles if max_tiles or several_pictures == "anyres" else 1,
    )
    seen = LlavaVision(model.model, caches.features)
    tiler = Tiler(geometry, single="anyres" if max_tiles else "pad", several=several_pictures)
    critic = LlavaOnevisionCritic(
        model,
        tokenizer,
        Preparer(tokenizer, QWEN_1_5, tiler, card.templates, card.max_input_tokens, seen.knows),
        card,
        blueprint.end_tokens,
        repetition_penalty or blueprint.repetition_penalty,
        seen,
        caches,
        Weights(model, blueprint, read),
    )
    causal_body.check_measured(model, critic.decoder, model.lm_head, card.templates[0])
    return critic


def _read(directory: Path, known: Blueprint | None, vision_heads: int | None) -> Blueprint:
    """See `reloading.BlueprintReader`."""
    raw = read_json(directory / "config.json")
    config, key_mapping = configuration(directory, raw, vision_heads)
    tokenizer = read_tokenizer(directory, known)
    if QWEN_1_5.end not in tokenizer.added:
        raise ValueError(f"the tokenizer has no {QWEN_1_5.end}, which ends a turn")
    end_tokens, penalty = read_generation(
        directory, known, tokenizer.added[QWEN_1_5.end], config.text_config.eos_token_id
    )
    return Blueprint(
        LlavaOnevisionForConditionalGeneration,
        config,
        tokenizer,
        key_mapping=key_mapping,
        end_tokens=end_tokens,
        repetition_penalty=penalty,
    )


def configuration(
    directory: Path, raw: dict[str, Any], vision_heads: int | None
) -> tuple[LlavaOnevisionConfig, dict[str, str] | None]:
    """transformers' configuration, and how tensors are renamed; None where nothing is."""
    if is_original(raw):
        shapes = checkpoint.read_shapes(directory)
        return llava_original.to_config(raw, shapes, vision_heads), llava_original.KEY_MAPPING
    if vision_heads is not None:
        raise Misconfigured(
            "--vision-heads is for checkpoints in the original layout: here config.json tells"
        )
    llava_checks.check_raw(raw)
    config = LlavaOnevisionConfig.from_pretrained(directory, local_files_only=True)
    llava_checks.check_config(config)
    llava_checks.check_preprocessor(directory, config)
    return config, None
