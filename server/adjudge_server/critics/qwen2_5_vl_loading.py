"""Loads Qwen2.5-VL critics in the layouts of transformers. Never asks a hub."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from adjudge_server.caches import DEFAULT, CacheBytes
from adjudge_server.content import RawImage
from adjudge_server.critic import CriticCard
from adjudge_server.critics import causal_body, checkpoint, qwen2_5_vl_checks
from adjudge_server.critics.preparing import Preparer
from adjudge_server.critics.qwen2_5_vl import Qwen2_5VlCritic
from adjudge_server.critics.qwen2_5_vl_patches import Patcher, Patching, patched
from adjudge_server.critics.qwen2_5_vl_vision import Qwen2_5VlVision
from adjudge_server.critics.reloading import (
    Blueprint,
    Weights,
    read_chat_template,
    read_generation,
    read_tokenizer,
)
from adjudge_server.images import decode
from adjudge_server.template_sets import FALLBACK, templates_of
from adjudge_server.templates import Template
from adjudge_server.text_files import read_json
from adjudge_server.tokenization import TextTokenizer

MEASURED = (5, 3)
"""Features across and down of the picture that a model is measured with: more than a window."""


def load(
    directory: Path,
    *,
    name: str,
    device: str,
    dtype: str,
    max_input_tokens: int,
    templates: Sequence[Template] | None = None,
    repetition_penalty: float | None = None,
    caches: CacheBytes = DEFAULT,
) -> Qwen2_5VlCritic:
    """Builds the critic that lies in a directory.

    Raises ValueError, with their names, for tensors that are missing, unexpected or of another
    shape, for checkpoints that want what this code does not compute or do not say how pictures are
    cut, and where the chat template or the tokenizer cannot be followed.
    """
    blueprint = _read(directory, None)
    config, tokenizer, patching = blueprint.config, blueprint.tokenizer, blueprint.patching
    assert blueprint.chat_template is not None and isinstance(patching, Patching)
    model = blueprint.load(directory, checkpoint.number_type(dtype, device))
    checkpoint.check_rows(directory, tokenizer, model.get_input_embeddings().num_embeddings)
    model = checkpoint.place(model, device)
    card = CriticCard(
        name=name,
        revision=directory.name,
        fingerprint=checkpoint.fingerprint(directory),
        family="qwen2_5_vl",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        templates=tuple(templates_of(FALLBACK) if templates is None else templates),
        sees_images=True,
        max_input_tokens=min(max_input_tokens, config.text_config.max_position_embeddings),
    )
    vision = Qwen2_5VlVision(model.model, caches.features)
    patcher = Patcher(patching)
    chat = blueprint.chat_template.chat()
    critic = Qwen2_5VlCritic(
        model,
        blueprint,
        Preparer(tokenizer, chat, patcher, card.templates, card.max_input_tokens, vision.knows),
        card,
        repetition_penalty or blueprint.repetition_penalty,
        vision,
        caches,
        Weights(model, blueprint, _read),
    )
    shown = _shown(vision, patching, config.image_token_id)
    head, template = model.lm_head, card.templates[0]
    causal_body.check_measured(model, critic.decoder, head, template)
    causal_body.check_measured(model, critic.decoder, head, template, shown)
    critic.forget()
    return critic


def _read(directory: Path, known: Blueprint | None) -> Blueprint:
    """See `reloading.BlueprintReader`."""
    raw = read_json(directory / "config.json")
    qwen2_5_vl_checks.check_raw(directory, raw)
    config = Qwen2_5_VLConfig.from_pretrained(directory, local_files_only=True)
    qwen2_5_vl_checks.check_config(config)
    patching = qwen2_5_vl_checks.read_patching(directory, config)
    if patching is None and known is not None:
        patching = known.patching
    if patching is None:
        raise ValueError(
            f"no {qwen2_5_vl_checks.PREPROCESSOR} and no {qwen2_5_vl_checks.PROCESSOR}: how"
            " pictures are cut for this model is not known"
        )
    tokenizer = read_tokenizer(directory, known)
    image = _image_token(tokenizer, config.image_token_id)
    chat_template = read_chat_template(directory, known, tokenizer, image=image)
    end_of_turn = tokenizer.added[chat_template.chat().end]
    end_tokens, penalty = read_generation(
        directory, known, end_of_turn, config.text_config.eos_token_id
    )
    return Blueprint(
        Qwen2_5_VLForConditionalGeneration,
        config,
        tokenizer,
        chat_template=chat_template,
        end_tokens=end_tokens,
        repetition_penalty=penalty,
        patching=patching,
    )


def _image_token(tokenizer: TextTokenizer, token: int) -> str:
    """The text of the added token that stands for a picture's features."""
    found = next((text for text, number in tokenizer.added.items() if number == token), None)
    if found is None:
        raise ValueError(f"config.json: image_token_id is {token!r}, no added token")
    return found


def _shown(vision: Qwen2_5VlVision, patching: Patching, token: int) -> causal_body.Shown:
    """A picture to measure with, and the same for the model of transformers."""
    width, height = (side * patching.step for side in MEASURED)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    raw = RawImage("RGB", width, height, Image.fromarray(pixels).tobytes())
    picture = patched(decode(raw, max_pixels=width * height), patching)

    def inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        values, grid = vision.inputs(picture)
        count = len(ids)
        return {
            "pixel_values": values.repeat(count, 1),
            "image_grid_thw": grid.repeat(count, 1),
            "mm_token_type_ids": (ids == token).int(),
        }

    return causal_body.Shown(picture, lambda digest: vision.features(picture), token, inputs)
