"""Attention of a packed row, in two parts: all rows to the prefix, each segment to itself.

A dense mask over the row makes every candidate pay for the keys of all others, only to hide them.
Here the softmax is computed over the two visible parts by themselves and merged by their
log-sum-exps, which is exact (as in Hydragen, arXiv 2402.05099): with weights w = exp(lse) of each
part, the whole is (w1 o1 + w2 o2) / (w1 + w2).

For CPUs: there, PyTorch's flash attention returns the log-sum-exp beside the output.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from adjudge_server.critics.packing import PackedRow

NAME = "adjudge_packed"
"""What transformers knows this attention by."""

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Blocks:
    """See `packing.Blocks`, as tensors, once for all layers."""

    prefix: int
    gather: torch.Tensor
    scatter: torch.Tensor
    mask: torch.Tensor
    """(K, 1, L, L) additive."""

    @classmethod
    def of(cls, row: PackedRow, dtype: torch.dtype) -> "Blocks":
        blocks = row.blocks
        visible = torch.from_numpy(blocks.visible)[:, None]
        return cls(
            prefix=row.prefix,
            gather=torch.from_numpy(blocks.gather),
            scatter=torch.from_numpy(blocks.scatter),
            mask=torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf")),
        )


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    blocks: Blocks | None = None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, heads, N, size), key and value (1, kv heads,
    P + N, size) to (1, N, heads, size). Without `blocks` it is plain SDPA."""
    if blocks is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return plain
    _, heads, rows, size = query.shape
    kv_heads = key.shape[1]
    # Heads that share keys become rows of one head: nothing is copied.
    grouped = query.view(kv_heads, heads // kv_heads, rows, size)
    own = _own_part(
        grouped, key[0, :, blocks.prefix :], value[0, :, blocks.prefix :], blocks, scaling
    )
    if blocks.prefix:
        shared = _prefix_part(
            grouped, key[0, :, : blocks.prefix], value[0, :, : blocks.prefix], scaling
        )
        own = _merged(own, shared)
    return own[0].reshape(1, heads, rows, size).transpose(1, 2), None


def _prefix_part(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> Pair:
    """Output (kv heads, sharing, N, size) and log-sum-exp (kv heads, sharing, N)."""
    kv_heads, sharing, rows, size = query.shape
    output, lse = _flash(
        query.reshape(1, kv_heads, sharing * rows, size), key[None], value[None], None, scaling
    )
    return output.view(query.shape), lse.reshape(kv_heads, sharing, rows)


def _own_part(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, blocks: Blocks, scaling: float
) -> Pair:
    """The same, of each segment to itself."""
    kv_heads, sharing, _, size = query.shape
    count, longest = blocks.gather.shape
    in_blocks = query[:, :, blocks.gather]  # (kv heads, sharing, K, L, size)
    output, lse = _flash(
        in_blocks.permute(2, 0, 1, 3, 4).reshape(count, kv_heads, sharing * longest, size),
        key[:, blocks.gather].transpose(0, 1),
        value[:, blocks.gather].transpose(0, 1),
        blocks.mask.repeat(1, 1, sharing, 1),
        scaling,
    )
    shape = (count, kv_heads, sharing, longest)
    output = output.reshape(*shape, size).permute(1, 2, 0, 3, 4).flatten(2, 3)
    lse = lse.reshape(shape).permute(1, 2, 0, 3).flatten(2, 3)
    return output[:, :, blocks.scatter], lse[:, :, blocks.scatter]


def _merged(one: Pair, other: Pair) -> Pair:
    weight = torch.sigmoid(one[1] - other[1])[..., None].to(one[0].dtype)
    return torch.lerp(other[0], one[0], weight), torch.logaddexp(one[1], other[1])


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> Pair:
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, False, attn_mask=mask, scale=scaling
    )
    return output, lse


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
