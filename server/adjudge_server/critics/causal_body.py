"""Which decoders of transformers packed rows compute exactly: what a configuration may not ask for,
and a measurement of the model that was loaded.

Packed rows need attention that is full and causal, and positions that depend on nothing but
themselves. The keys that say otherwise are refused by name; what has no such key (a layer that does
not go through transformers' attention, logits that are scaled) shows in the measurement.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
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
from adjudge_server.critics.decoder import Decoder, Features, no_pictures
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt, TiledPicture
from adjudge_server.templates import Template

GROWING_ROPE = ("dynamic", "longrope")
"""Rotary positions whose frequencies change with the length of the sequence."""
PREFIX = 5
ENDINGS = (4, 7)
"""Tokens of the measurement: what is shared, and the ends of two sequences."""
PADDING = 24
"""Tokens after a sequence where the noise of plain transformers is measured."""
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference to plain transformers, as a share of the vector's length; halves: see
`_noise_allowed`."""
LOOSEST = 0.1
MARGIN_OF_SAFETY = 4.0
"""Packed rows differ from one sequence by 1.2 to 1.4 times what a padded batch does (measured, 28
layers of random weights in both halves)."""
AFTER_THE_BODY = ("logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")
"""By which some models multiply what the head gives, where only their own `forward` sees it."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A picture that a model is measured with."""

    picture: TiledPicture[Any]
    features: Features
    token: int
    """Stands for one feature in the input of the model of transformers."""
    inputs: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    """What that model takes beside (B, N) token ids, one such picture in each row."""


def read_config(directory: Path, raw: Mapping[str, Any]) -> PretrainedConfig:
    """Raises ValueError, naming the key, for what is not computed here. Runs no code of the
    checkpoint's."""
    if raw.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(
            f"config.json: model_type {raw.get('model_type')!r} is not known to transformers"
            + ("; auto_map names code of its own, which is never run" if "auto_map" in raw else "")
        )
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    length = getattr(config, "max_position_embeddings", None)  # which may go by another name
    check_keys(vars(config) | {"max_position_embeddings": length})
    return config


def check_keys(keys: Mapping[str, Any], within: str = "") -> None:
    """Raises ValueError, naming the key, where a decoder's configuration asks for something that
    packed rows do not compute. `within` is put before the key: the part of config.json it is in."""
    for key, value in _refused(keys).items():
        raise ValueError(f"config.json: {within}{key} is {value!r}, which is not implemented")
    length = keys.get("max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        raise ValueError(
            f"config.json: {within}max_position_embeddings is {length!r}, not a number of tokens"
        )


def _refused(keys: Mapping[str, Any]) -> dict[str, object]:
    """The keys that ask for something else than full causal attention with rotary positions, and
    for something else than a head's own values."""
    on = (
        "use_sliding_window",
        "attention_chunk_size",
        "use_bidirectional_attention",
        "is_encoder_decoder",
        "alibi",
    )
    refused = {key: keys[key] for key in on if keys.get(key)}
    rope = keys.get("rope_parameters")
    if not rope:
        refused["rope_parameters"] = rope
    kind = (rope or {}).get("rope_type", "default")
    if kind in GROWING_ROPE:
        refused["rope_parameters.rope_type"] = kind
    window = keys.get("sliding_window")
    if window is not None and keys.get("use_sliding_window", True):
        refused["sliding_window"] = window
    layers = keys.get("layer_types") or ()
    if others := sorted({layer for layer in layers if layer != "full_attention"}):
        refused["layer_types"] = others
    refused |= {key: keys[key] for key in keys if "softcap" in key and keys[key] is not None}
    refused |= {key: keys[key] for key in AFTER_THE_BODY if keys.get(key) not in (None, 1)}
    if keys.get("is_causal") is False:
        refused["is_causal"] = False
    return refused


@torch.inference_mode()
def check_measured(
    model: PreTrainedModel,
    decoder: Decoder,
    head: nn.Module,
    template: Template,
    shown: Shown | None = None,
) -> None:
    """Raises ValueError where packed rows and this head give something else than the model of
    transformers does, one sequence at a time. `template` is any; with `shown` there is a picture in
    every sequence."""
    problem = ""
    cause: Exception | None = None
    try:
        problem = next(_differences(model, decoder, head, template, shown), "")
    except Exception as error:  # layers that do not know what they are given raise anything
        problem, cause = f"{type(error).__name__}: {error}", error
    finally:
        decoder.prefixes.clear()
    if problem:
        raise ValueError(
            f"config.json: model_type {model.config.model_type!r} is not computed here as"
            f" transformers computes it ({problem})"
        ) from cause


def _differences(
    model: PreTrainedModel,
    decoder: Decoder,
    head: nn.Module,
    template: Template,
    shown: Shown | None,
) -> Iterator[str]:
    """What differs by more than it may."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    items = [_item(vocabulary, length, template, shown) for length in ENDINGS]
    passed = decoder.run(items, shown.features if shown else no_pictures)
    for leaf in passed.leaves:
        ids = torch.tensor([items[leaf.indices[0]].token_ids], device=decoder.device)
        if shown:
            ids[ids == IMAGE_SLOT] = shown.token
        more = shown.inputs(ids) if shown else {}
        plain = model.base_model(input_ids=ids, **more).last_hidden_state[0]
        # `logits` of a classifier are (1, labels), those of a language model one row a token.
        headed = head(plain)
        logits = model(input_ids=ids, **more).logits.reshape(-1, headed.shape[-1])[-1]
        yield from _beyond("logits", _share(headed[-1], logits), _exact(decoder.dtype))
        allowed = TOLERANCES.get(decoder.dtype) or _noise_allowed(model, ids, plain, shown)
        last = passed.hidden[leaf.last : leaf.end]
        yield from _beyond("features", _share(last, plain[-1:]), allowed)


def _beyond(what: str, difference: float, allowed: float) -> Iterator[str]:
    if not isfinite(difference):
        yield f"{what} are not finite"
    elif difference > allowed:
        yield f"{what} differ by {difference:.2g} of the whole, where noise is {allowed:.2g}"


def _exact(dtype: torch.dtype) -> float:
    """Of one and the same features through the head: nothing but their last rounding differs."""
    return TOLERANCES.get(dtype, 4 * torch.finfo(dtype).eps)


def _noise_allowed(
    model: PreTrainedModel, ids: torch.Tensor, alone: torch.Tensor, shown: Shown | None
) -> float:
    """Of features in halves. What they round away depends on the depth and on the device's kernels,
    so the model's own noise tells; eight roundings are allowed to those that show none."""
    floor = 8 * torch.finfo(alone.dtype).eps
    return min(LOOSEST, max(floor, MARGIN_OF_SAFETY * _noise(model, ids, alone, shown)))


def _noise(
    model: PreTrainedModel, ids: torch.Tensor, alone: torch.Tensor, shown: Shown | None
) -> float:
    """How much the features of plain transformers change in a batch, padded on the right."""
    length = ids.shape[1]
    padded = torch.cat([ids, ids.new_zeros(1, PADDING)], dim=1).repeat(len(ENDINGS), 1)
    seen = torch.arange(padded.shape[1], device=ids.device) < length
    states = model.base_model(
        input_ids=padded,
        attention_mask=seen.long().repeat(len(ENDINGS), 1),
        **(shown.inputs(padded) if shown else {}),
    ).last_hidden_state
    return _share(states[0, :length], alone)


def _share(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.double(), theirs.double()
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())


def _item(vocabulary: int, length: int, template: Template, shown: Shown | None) -> PreparedPrompt:
    numbers = [*range(PREFIX), *(length * 31 + k for k in range(length))]
    token_ids = tuple((7 + 97 * number) % vocabulary for number in numbers)
    if shown is None:
        return PreparedPrompt("measured", template, token_ids, PREFIX, (), NO_ANSWERS)
    text = [token if token != shown.token else 0 for token in token_ids]
    slots = [IMAGE_SLOT] * shown.picture.layout.num_tokens
    seen = (*text[: PREFIX - 2], *slots, *text[PREFIX - 2 :])
    return PreparedPrompt(
        "measured", template, seen, PREFIX + len(slots), (shown.picture,), NO_ANSWERS
    )
