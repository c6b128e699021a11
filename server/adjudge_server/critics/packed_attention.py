"""Attention of packed rows: of each segment to itself, then of all rows below a run to that run.

A dense mask would make every candidate pay for the keys of all others, only to hide them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from adjudge_server.critics.attend import Attended, attend, merged
from adjudge_server.critics.keys_values import KeysValues, Pair
from adjudge_server.critics.packing import Block, PackedRows

NAME = "adjudge_packed"
"""What transformers knows this attention by."""

Source = Callable[[int, torch.Tensor, torch.Tensor], Pair]
"""From layer and (kv heads, N, size) keys and values of the pass to what is attended to."""


@dataclass(frozen=True, slots=True)
class BlockTensors:
    """See `packing.Block`, as tensors, once for all layers."""

    rows: torch.Tensor
    places: torch.Tensor
    rows_of_places: torch.Tensor
    mask: torch.Tensor
    """(K, 1, L, L) additive."""

    @classmethod
    def of(cls, block: Block, device: torch.device, dtype: torch.dtype) -> "BlockTensors":
        rows = torch.from_numpy(block.rows).to(device)
        places = torch.from_numpy(block.places).to(device)
        visible = torch.from_numpy(block.visible).to(device)[:, None]
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        return cls(rows, places, rows.flatten()[places], mask.masked_fill_(~visible, float("-inf")))


@dataclass(frozen=True, slots=True)
class Above:
    """Keys that the rows from `start` to `end` see all of."""

    source: Source
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Attendance:
    """Who sees whom in a pass, and whose keys and values are kept."""

    blocks: tuple[BlockTensors, ...]
    causal: tuple[tuple[int, int], ...]
    above: tuple[Above, ...]
    kept: tuple[tuple[int, int], ...]
    """Start and end of each run whose keys and values are kept."""
    read: torch.Tensor
    """(R,) rows whose hidden states are read."""
    last: int | None
    """The layer behind which nothing but those rows is of use; None: unknown."""
    causal_in_last: tuple[tuple[int, int], ...]
    """Of `causal`, what has such rows."""
    layers: list[list[Pair]] = field(default_factory=list)
    """Filled by the pass: per layer, one pair for each of `kept`."""

    @classmethod
    def of(
        cls,
        rows: PackedRows,
        known: Sequence[Above],
        kept: Sequence[tuple[int, int]],
        device: torch.device,
        dtype: torch.dtype,
        last: int | None,
    ) -> "Attendance":
        spans = [Above(_rows_of_pass(start, end), end, last) for start, end, last in rows.spans]
        return cls(
            blocks=tuple(BlockTensors.of(block, device, dtype) for block in rows.blocks),
            causal=rows.causal,
            above=(*known, *spans),
            kept=tuple(kept),
            read=torch.from_numpy(rows.read).to(device),
            last=last,
            causal_in_last=tuple(
                (start, end)
                for start, end in rows.causal
                if ((start <= rows.read) & (rows.read < end)).any()
            ),
        )

    def keys_values(self) -> list[KeysValues]:
        """After the pass: of each of `kept`."""
        return [KeysValues(layers) for layers in zip(*self.layers, strict=True)]


def known_above(kept: KeysValues, start: int, end: int) -> Above:
    return Above(lambda layer, key, value: kept.layers[layer], start, end)


def _rows_of_pass(start: int, end: int) -> Source:
    return lambda layer, key, value: (key[:, start:end], value[:, start:end])


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    attendance: Attendance | None = None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, heads, N, size), key and value (1, kv heads, N,
    size) to (1, N, heads, size). Without `attendance` it is plain SDPA."""
    if attendance is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return plain
    layer = module.layer_idx
    assert isinstance(layer, int) and layer == len(attendance.layers)
    output = _attend_all(query[0], key[0], value[0], attendance, layer, scaling)
    attendance.layers.append(
        [(key[0, :, a:b].clone(), value[0, :, a:b].clone()) for a, b in attendance.kept]
    )
    return output.transpose(0, 1)[None], None


def _attend_all(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attendance: Attendance,
    layer: int,
    scaling: float,
) -> torch.Tensor:
    """(heads, N, size), as views of (N, heads, size) in memory, like what comes in."""
    heads, rows, size = query.shape
    is_last = layer == attendance.last
    # What is skipped in the last layer is zero: what lay in memory before might not be finite.
    empty = query.new_zeros if is_last else query.new_empty
    output = empty(rows, heads, size).transpose(0, 1)
    precise = torch.promote_types(query.dtype, torch.float32)
    lse = empty(rows, heads, dtype=precise).transpose(0, 1)
    for block in attendance.blocks:
        own = _within_block(query, key, value, block, scaling)
        output.transpose(0, 1).index_copy_(0, block.rows_of_places, own[0])
        lse.transpose(0, 1).index_copy_(0, block.rows_of_places, own[1])
    for start, end in attendance.causal_in_last if is_last else attendance.causal:
        run = slice(start, end)
        seen = attend(
            query[None, :, run],
            key[None, :, run],
            value[None, :, run],
            scaling=scaling,
            causal=True,
        )
        output[:, run], lse[:, run] = seen[0][0], seen[1][0]
    for above in attendance.above:
        below = slice(above.start, above.end)
        seen = _to_all(query[:, below], *above.source(layer, key, value), scaling)
        output[:, below], lse[:, below] = merged((output[:, below], lse[:, below]), seen)
    return output


def _to_all(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> Attended:
    """Every row to every key. Heads that share keys become rows of one head: nothing is copied."""
    heads, rows, size = query.shape
    kv_heads = key.shape[0]
    grouped = query.reshape(1, kv_heads, heads // kv_heads * rows, size)
    output, lse = attend(grouped, key[None], value[None], scaling)
    return output.reshape(heads, rows, size), lse.reshape(heads, rows)


def _within_block(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, block: BlockTensors, scaling: float
) -> Attended:
    """Every segment to itself; padding is cut away: (n, heads, size) and (n, heads)."""
    query, key, value = (_of_segments(tensor, block.rows) for tensor in (query, key, value))
    output, lse = attend(query, key, value, scaling, mask=block.mask)
    return (
        output.transpose(1, 2).flatten(0, 1).index_select(0, block.places),
        lse.transpose(1, 2).flatten(0, 1).index_select(0, block.places),
    )


def _of_segments(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(heads, N, size) to (K, heads, L, size)."""
    taken = tensor.transpose(0, 1).index_select(0, rows.flatten())
    return taken.view(*rows.shape, *taken.shape[1:]).transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
