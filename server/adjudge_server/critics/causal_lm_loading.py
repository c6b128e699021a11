"""Loads text-only instruct models as critics. Never asks a hub, and runs no code but ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from adjudge_server.caches import DEFAULT, CacheBytes
from adjudge_server.critic import CriticCard
from adjudge_server.critics import causal_body, checkpoint
from adjudge_server.critics.causal_lm import CausalLmCritic
from adjudge_server.critics.preparing import Preparer, TiledPicture
from adjudge_server.critics.reloading import (
    Blueprint,
    Weights,
    read_chat_template,
    read_generation,
    read_tokenizer,
)
from adjudge_server.images import Picture
from adjudge_server.template_sets import FALLBACK, templates_of
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
    repetition_penalty: float | None = None,
    caches: CacheBytes = DEFAULT,
) -> CausalLmCritic:
    """Builds the critic that lies in a directory.

    Raises ValueError, with their names, for tensors that are missing, unexpected or of another
    shape, for models that packed rows do not compute exactly, and where the chat template or the
    tokenizer cannot be followed.
    """
    blueprint = _read(directory, None)
    config, tokenizer = blueprint.config, blueprint.tokenizer
    assert blueprint.chat_template is not None
    chat = blueprint.chat_template.chat()
    model = blueprint.load(directory, checkpoint.number_type(dtype, device))
    checkpoint.check_rows(directory, tokenizer, model.get_input_embeddings().num_embeddings)
    model = checkpoint.place(model, device)
    card = CriticCard(
        name=name,
        revision=directory.name,
        fingerprint=checkpoint.fingerprint(directory),
        family="causal_lm",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        templates=tuple(templates_of(FALLBACK) if templates is None else templates),
        sees_images=False,
        max_input_tokens=min(max_input_tokens, config.max_position_embeddings),
    )
    critic = CausalLmCritic(
        model,
        tokenizer,
        Preparer(tokenizer, chat, _no_pictures, card.templates, card.max_input_tokens),
        card,
        blueprint.end_tokens,
        repetition_penalty or blueprint.repetition_penalty,
        Weights(model, blueprint, _read),
        caches,
    )
    causal_body.check_measured(
        model, critic.decoder, model.get_output_embeddings(), card.templates[0]
    )
    return critic


def _read(directory: Path, known: Blueprint | None) -> Blueprint:
    """See `reloading.BlueprintReader`."""
    raw = read_json(directory / "config.json")
    config = causal_body.read_config(directory, raw)
    tokenizer = read_tokenizer(directory, known)
    chat_template = read_chat_template(directory, known, tokenizer)
    end_of_turn = tokenizer.added[chat_template.chat().end]
    end_tokens, penalty = read_generation(directory, known, end_of_turn, config.eos_token_id)
    return Blueprint(
        AutoModelForCausalLM,
        config,
        tokenizer,
        chat_template=chat_template,
        end_tokens=end_tokens,
        repetition_penalty=penalty,
    )


def _no_pictures(picture: Picture, num_pictures: int) -> TiledPicture[Any]:
    raise AssertionError("pictures are refused before they come here")
