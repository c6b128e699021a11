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
    prefix_bias: Tensor
    """(rows, 1, 1, prefix): 0, or -inf where a shorter prefix was padded."""
    lane_bias: Tensor
    """(rows, 1, lanes, lane, lane): 0 within a response, backwards; -inf elsewhere."""


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
    q = query[:, :, p:] * scale
    to_prefix = q @ key[:, :, :p].transpose(2, 3) + layout.prefix_bias  # (rows, heads, n * m, p)
    lane_q = q.reshape(rows, heads, n, m, size)
    lane_k = key[:, :, p:].reshape(rows, heads, n, m, size)
    lane_v = value[:, :, p:].reshape(rows, heads, n, m, size)
    to_lane = (lane_q @ lane_k.transpose(3, 4) + layout.lane_bias).reshape(rows, heads, n * m, m)
    weights = torch.cat([to_prefix, to_lane], dim=-1).softmax(-1)
    on_prefix, on_lane = torch.split(weights, [p, m], dim=-1)
    own = on_lane.reshape(rows, heads, n, m, m) @ lane_v
    tail = on_prefix @ value[:, :, :p] + own.reshape(rows, heads, n * m, size)
    return torch.cat([head, tail], dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, tree_attention)
