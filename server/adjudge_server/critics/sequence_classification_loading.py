"""Loads reward models with a scalar head. Never asks a hub, and runs no code but ours."""

from pathlib import Path

from transformers import AutoModelForSequenceClassification

from adjudge_server.caches import DEFAULT, CacheBytes
from adjudge_server.critic import CriticCard
from adjudge_server.critics import causal_body, checkpoint
from adjudge_server.critics.reloading import (
    Blueprint,
    Weights,
    read_chat_template,
    read_tokenizer,
)
from adjudge_server.critics.sequence_classification import SequenceClassificationCritic
from adjudge_server.template_sets import CONVERSATION
from adjudge_server.text_files import read_json


def load(
    directory: Path,
    *,
    name: str,
    device: str,
    dtype: str,
    max_input_tokens: int,
    caches: CacheBytes = DEFAULT,
) -> SequenceClassificationCritic:
    """Builds the critic that lies in a directory. There is no choice of templates.

    Raises ValueError, with their names, for tensors that are missing (the head would be random),
    unexpected or of another shape, for a head of several labels, for models that packed rows do not
    compute exactly, and where the chat template cannot be followed.
    """
    blueprint = _read(directory, None)
    config, tokenizer = blueprint.config, blueprint.tokenizer
    chat_template = blueprint.chat_template
    assert chat_template is not None
    model = blueprint.load(directory, checkpoint.number_type(dtype, device))
    if not hasattr(model, "score"):
        raise ValueError(f"config.json: model_type {config.model_type!r} has no head named score")
    checkpoint.check_rows(directory, tokenizer, model.get_input_embeddings().num_embeddings)
    model = checkpoint.place(model, device)
    card = CriticCard(
        name=name,
        revision=directory.name,
        fingerprint=checkpoint.fingerprint(directory),
        family="sequence_classification",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        templates=(CONVERSATION,),
        sees_images=False,
        max_input_tokens=min(max_input_tokens, config.max_position_embeddings),
    )
    weights = Weights(model, blueprint, _read)
    critic = SequenceClassificationCritic(model, tokenizer, chat_template, card, weights, caches)
    causal_body.check_measured(model, critic.decoder, model.score, CONVERSATION)
    return critic


def _read(directory: Path, known: Blueprint | None) -> Blueprint:
    """See `reloading.BlueprintReader`."""
    raw = read_json(directory / "config.json")
    config = causal_body.read_config(directory, raw)
    if config.num_labels != 1:
        raise ValueError(f"config.json: num_labels is {config.num_labels}, a reward is one number")
    tokenizer = read_tokenizer(directory, known)
    chat_template = read_chat_template(directory, known, tokenizer)
    return Blueprint(
        AutoModelForSequenceClassification,
        config,
        tokenizer,
        chat_template=chat_template,
        pads=True,
    )
