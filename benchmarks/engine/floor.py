"""The least that a batch can cost on this machine: measured, not taken from a data sheet.

Everything that prompts have in common is computed once: the picture by the vision tower, then every
token of the prompts' trie. The vision tower and one plain causal pass over what all prompts share
are timed in transformers' own code, with nothing kept. What remains (responses and answer
positions, with their attention to all that stands before them, and the logits that are read) is
counted in operations, and put at the rate of that plain pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from benchmarks.engine.shapes import Shape
from benchmarks.engine.timing import Seconds, timed
from torch import nn
from transformers import LlavaOnevisionForConditionalGeneration

from adjudge_server.critics.preparing import PreparedPrompt

PEAK_SIDES = {"cpu": 1024, "cuda": 8192}
"""Enough that the device is full."""
PEAK_TRIES = 8


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens through the language model, attended pairs of tokens, and places with logits."""

    tokens: int
    pairs: int
    reads: int

    def flops(self, shape: Shape) -> int:
        return (
            self.tokens * shape.linear_flops
            + self.pairs * shape.pair_flops
            + self.reads * shape.head_flops
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of what is measured: the tower, the pass over the prefix, its attention alone."""

    vision: Seconds
    prefix: Seconds
    attention: Seconds


def prefix_work(length: int) -> Work:
    """Of one causal pass, no logits."""
    return Work(length, length * (length + 1) // 2, 0)


def work_after(items: Sequence[PreparedPrompt], known: int) -> Work:
    """What the prompts need beyond their first `known` tokens, each different token once.

    Prompts are of one picture: its tokens look all alike here.
    """
    tokens = pairs = reads = 0
    before: tuple[int, ...] = ()
    different = {(item.token_ids, id(item.tree)): item for item in items}
    for item in sorted(different.values(), key=lambda item: item.token_ids):
        ids = item.token_ids
        first = max(known, _common(before, ids))
        tokens += len(ids) - first
        pairs += sum(range(first + 1, len(ids) + 1))
        tokens += len(item.tree.tokens)
        # Depths count from the prompt's last token on; a position attends to itself too.
        pairs += sum(len(ids) + depth + 1 for depth in item.tree.depths)
        reads += len({row for row, _ in item.tree.reads})
        before = ids
    return Work(tokens, pairs, reads)


def suffix_seconds(work: Work, length: int, prefix: float, shape: Shape) -> float:
    """Of the work, at the rate of a plain pass over `length` tokens that took `prefix` seconds."""
    return prefix * work.flops(shape) / prefix_work(length).flops(shape)


def suffix_seconds_by_kind(
    work: Work, length: int, prefix: float, attention: float, shape: Shape
) -> float:
    """The same with two rates, of the prefix's attention and of everything else: a suffix attends
    to more tokens than the prefix does on average, and the two do not run equally fast."""
    linear = (prefix - attention) / (length * shape.linear_flops)
    attending = attention / prefix_work(length).pairs
    dense = work.tokens * shape.linear_flops + work.reads * shape.head_flops
    return linear * dense + attending * work.pairs


@torch.inference_mode()
def measured(
    model: LlavaOnevisionForConditionalGeneration, shape: Shape, pixels: torch.Tensor, length: int
) -> Parts:
    """`pixels` (1 + n, 3, side, side) of a picture, `length` tokens of a prefix."""
    inner, device, dtype = model.model, model.device, model.dtype
    embedded = torch.randn(1, length, shape.hidden, device=device, dtype=dtype)
    size = shape.hidden // shape.heads
    query = torch.randn(1, shape.heads, length, size, device=device, dtype=dtype)
    key = torch.randn(1, shape.kv_heads, length, size, device=device, dtype=dtype)

    def see() -> None:
        inner.multi_modal_projector(inner.vision_tower(pixels).last_hidden_state)

    def attend() -> None:
        for _ in range(shape.layers):
            nn.functional.scaled_dot_product_attention(
                query, key, key, is_causal=True, enable_gqa=True
            )

    return Parts(
        timed(see),
        timed(lambda: inner.language_model(inputs_embeds=embedded, use_cache=False)),
        timed(attend),
    )


def matrix_product_peak(device: str, dtype: torch.dtype) -> float:
    """Operations per second of CPU (of wall on a GPU): the best of several square products."""
    side = PEAK_SIDES[torch.device(device).type]
    one = torch.randn(side, side, device=device, dtype=dtype)
    times = [timed(lambda: one @ one) for _ in range(PEAK_TRIES)]
    best = min(t.wall if device.startswith("cuda") else t.cpu for t in times)
    return float(2 * side**3 / best)


def pixels_of(item: PreparedPrompt, model: nn.Module) -> torch.Tensor:
    (shown,) = item.pictures
    cut: Callable[[], object] = shown.cut
    parameter = next(model.parameters())
    return torch.as_tensor(cut()).to(parameter)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)
