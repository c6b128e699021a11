"""Attention over packed rows: a shared prefix, then lanes of responses that do not see each other.

A row is `prefix | lane | lane | …`. Every token of a lane sees the whole prefix and what came
before it in its own response. Computing it as "prefix block plus own lane" costs a quarter of a
dense mask over the row.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

NAME = "embedded_critic_tree"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which token sees which."""

    prefix: int
    lanes: int
    lane: int
    """Tokens in a lane."""
    lane_bias: Tensor
    """(rows * lanes, 1, lane, prefix + lane): 0 on the prefix, but for its padding, and within a
    response backwards; -inf elsewhere."""


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (rows, heads, tokens, size) in, heads after tokens out."""
    layout = attention_mask
    rows, heads, _tokens, size = query.shape
    groups = heads // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    scale = scaling if scaling is not None else 1 / math.sqrt(size)
    p, n, m = layout.prefix, layout.lanes, layout.lane
    head = F.scaled_dot_product_attention(
        query[:, :, :p], key[:, :, :p], value[:, :, :p], is_causal=True, scale=scale
    )
    # Every lane with a copy of the prefix before it: one fused call, nothing large in between.
    lane_q = _lanes(query[:, :, p:], n, m)
    lane_k, lane_v = (
        torch.cat([_beside_lanes(t[:, :, :p], n), _lanes(t[:, :, p:], n, m)], dim=2)
        for t in (key, value)
    )
    tail = F.scaled_dot_product_attention(
        lane_q, lane_k, lane_v, attn_mask=layout.lane_bias, scale=scale
    )
    tail = tail.view(rows, n, heads, m, size).transpose(1, 2).reshape(rows, heads, n * m, size)
    return torch.cat([head, tail], dim=2).transpose(1, 2).contiguous(), None


def _lanes(states: Tensor, lanes: int, lane: int) -> Tensor:
    """(rows, heads, lanes * lane, size) to (rows * lanes, heads, lane, size)."""
    rows, heads, _, size = states.shape
    return states.reshape(rows, heads, lanes, lane, size).transpose(1, 2).flatten(0, 1)


def _beside_lanes(states: Tensor, lanes: int) -> Tensor:
    """(rows, heads, prefix, size) to (rows * lanes, heads, prefix, size)."""
    rows, *rest = states.shape
    return states[:, None].expand(rows, lanes, *rest).reshape(rows * lanes, *rest)


AttentionInterface.register(NAME, tree_attention)
