"""Which decoders of transformers packed rows compute exactly: what a configuration may not ask for,
and a measurement of the model that was loaded.

Packed rows need attention that is full and causal, and positions that depend on nothing but
themselves. The keys that say otherwise are refused by name; what has no such key (a layer that does
not go through transformers' attention, logits that are scaled) shows in the measurement.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from adjudge_server.answers import NO_ANSWERS
from adjudge_server.critics.decoder import Decoder, no_pictures
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.templates import Template

GROWING_ROPE = ("dynamic", "longrope")
"""Rotary positions whose frequencies change with the length of the sequence."""
PREFIX = 5
ENDINGS = (4, 7)
"""Tokens of the measurement: what is shared, and the ends of two sequences."""
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference to plain transformers, as a share of the vector's length; of halves 0.1."""


def read_config(directory: Path, raw: Mapping[str, Any]) -> PretrainedConfig:
    """Raises ValueError, naming the key, for what is not computed here. Runs no code of the
    checkpoint's."""
    if raw.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(
            f"config.json: model_type {raw.get('model_type')!r} is not known to transformers"
            + ("; auto_map names code of its own, which is never run" if "auto_map" in raw else "")
        )
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    for key, value in _refused(config).items():
        raise ValueError(f"config.json: {key} is {value!r}, which is not implemented")
    return config


def _refused(config: PretrainedConfig) -> dict[str, object]:
    """The keys that ask for something else than full causal attention with rotary positions."""
    rope = getattr(config, "rope_parameters", None)
    refused: dict[str, object] = {} if rope else {"rope_parameters": rope}
    kind = (rope or {}).get("rope_type", "default")
    if kind in GROWING_ROPE:
        refused["rope_parameters.rope_type"] = kind
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        refused["sliding_window"] = window
    layers = getattr(config, "layer_types", None) or ()
    if others := sorted({layer for layer in layers if layer != "full_attention"}):
        refused["layer_types"] = others
    keys = vars(config)
    refused |= {key: keys[key] for key in keys if "softcap" in key and keys[key] is not None}
    on = ("attention_chunk_size", "use_bidirectional_attention", "is_encoder_decoder", "alibi")
    refused |= {key: keys[key] for key in on if keys.get(key)}
    if keys.get("is_causal") is False:
        refused["is_causal"] = False
    return refused


@torch.inference_mode()
def check_measured(
    model: PreTrainedModel, decoder: Decoder, head: nn.Module, template: Template
) -> None:
    """Raises ValueError where packed rows and this head give something else than the model of
    transformers does, one sequence at a time. `template` is any."""
    try:
        difference = _difference(model, decoder, head, template)
    except Exception as error:  # layers that do not know what they are given raise anything
        difference = float("inf")
        cause: Exception | None = error
    else:
        cause = None
    if not difference <= TOLERANCES.get(decoder.dtype, 0.1):
        raise ValueError(
            f"config.json: model_type {model.config.model_type!r} is not computed here as"
            f" transformers computes it (they differ by {difference:.2g} of the whole)"
        ) from cause


def _difference(
    model: PreTrainedModel, decoder: Decoder, head: nn.Module, template: Template
) -> float:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    items = [_item(vocabulary, length, template) for length in ENDINGS]
    differences = []
    passed = decoder.run(items, no_pictures)
    for leaf in passed.leaves:
        own = passed.hidden[leaf.start : leaf.start + len(leaf.own)]
        ids = torch.tensor([leaf.symbols], device=decoder.device)
        plain = model.base_model(input_ids=ids).last_hidden_state[0, -len(own) :]
        differences.append(_share(own, plain))
        # `logits` of a classifier are (1, labels), those of a language model one row a token.
        logits = model(input_ids=ids).logits.reshape(-1, head(plain).shape[-1])[-1]
        differences.append(_share(head(own)[-1], logits))
    decoder.prefixes.clear()
    return max(differences)


def _share(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.double(), theirs.double()
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())


def _item(vocabulary: int, length: int, template: Template) -> PreparedPrompt:
    numbers = [*range(PREFIX), *(length * 31 + k for k in range(length))]
    token_ids = tuple((7 + 97 * number) % vocabulary for number in numbers)
    return PreparedPrompt("measured", template, token_ids, PREFIX, (), NO_ANSWERS)
