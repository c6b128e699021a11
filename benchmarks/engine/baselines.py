"""How critics are run without an engine: plain transformers, the picture seen anew for everyone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch
from benchmarks.engine.floor import pixels_of
from benchmarks.engine.questions import Size
from transformers import LlavaOnevisionForConditionalGeneration

from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt

GENERATED_TOKENS = 64
"""Of each critique; real ones are longer."""

Model: TypeAlias = LlavaOnevisionForConditionalGeneration
Baseline = Callable[[Model, Sequence[PreparedPrompt], Size], object]


@torch.inference_mode()
def generate(
    model: Model, items: Sequence[PreparedPrompt], size: Size, tokens: int = GENERATED_TOKENS
) -> None:
    """As the published snippet does: greedily, one response after the other."""
    ends = model.config.text_config.eos_token_id
    for item in items:
        model.generate(
            **_inputs(model, [item], size),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=ends,
        )


@torch.inference_mode()
def one_forward_each(
    model: Model, items: Sequence[PreparedPrompt], size: Size
) -> list[torch.Tensor]:
    """(vocabulary,) logits after each prompt. One position, where an expectation needs eleven more:
    the baseline is flattered."""
    return [
        model(**_inputs(model, [item], size), logits_to_keep=1, use_cache=False).logits[0, -1]
        for item in items
    ]


@torch.inference_mode()
def padded_batch(
    model: Model, items: Sequence[PreparedPrompt], size: Size
) -> Sequence[torch.Tensor]:
    """The same in one batch, padded on the left."""
    logits: torch.Tensor = model(
        **_inputs(model, items, size), logits_to_keep=1, use_cache=False
    ).logits[:, -1]
    return list(logits)


BASELINES: Mapping[str, Baseline] = {
    "generate": generate,
    "one forward each": one_forward_each,
    "padded batch": padded_batch,
}

ONE_BY_ONE = ("generate", "one forward each")
"""Those that take one response after the other, each at the cost of any other."""


def shortened(tokens: int) -> dict[str, Baseline]:
    """The same, with critiques of so many tokens."""
    return {**BASELINES, "generate": partial(generate, tokens=tokens)}


def _inputs(model: Model, items: Sequence[PreparedPrompt], size: Size) -> dict[str, torch.Tensor]:
    longest = max(len(item.token_ids) for item in items)
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        own = torch.tensor(item.token_ids)
        ids[row, longest - len(own) :] = own.where(own != IMAGE_SLOT, model.config.image_token_id)
        mask[row, longest - len(own) :] = 1
    pixels = pixels_of(items[0], model)
    width, height = size
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": mask.to(model.device),
        "pixel_values": pixels.expand(len(items), *pixels.shape),
        "image_sizes": torch.tensor([[height, width]] * len(items)),
    }
