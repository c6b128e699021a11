"""Attention that also gives its log-sum-exp, so that several can be merged into one.

The softmax over two sets of keys is computed over each by itself and merged, which is exact (as in
Hydragen, arXiv 2402.05099): with the weights w = exp(log-sum-exp) of each part, the whole is
(w1 o1 + w2 o2) / (w1 + w2).
"""

from functools import cache

import torch
from torch import nn

LARGEST_OF_FLASH = 256
"""Size of a head."""
ROWS_OF_KERNEL = 32
"""Rows that the CPU's kernel takes at once; more where there are many, in multiples of this."""
Attended = tuple[torch.Tensor, torch.Tensor]
"""Output (batch, heads, rows, size), and log-sum-exp (batch, heads, rows) in single precision or
better."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
) -> Attended:
    """Query (batch, heads, rows, size) to key and value (batch, heads, tokens, size), which may
    have fewer heads. `mask` is additive, (batch, 1, rows, tokens)."""
    if query.device.type == "cpu":
        return _on_cpu(query, key, value, scaling, mask, causal)
    if query.dtype is torch.float64:
        return in_steps(query, key, value, scaling, mask, causal)
    if mask is None and _has_flash(query):
        return _in_halves(query, key, value, scaling, causal)
    return _with_any_mask(query, key, value, scaling, mask, causal)


def _on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None,
    causal: bool,
) -> Attended:
    rows = query.shape[2]
    if mask is None and not causal:
        query = _filled_up(query)
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scaling
    )
    return output[:, :, :rows], lse[:, :, :rows]


def _filled_up(query: torch.Tensor) -> torch.Tensor:
    """With rows of zeros, so that no product has less than four: the library's sum over thousands
    of keys is ten times less exact for those."""
    over = query.shape[2] % ROWS_OF_KERNEL
    return nn.functional.pad(query, (0, 0, 0, 4 - over)) if 0 < over < 4 else query


def _has_flash(query: torch.Tensor) -> bool:
    return (
        query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] <= LARGEST_OF_FLASH
        and (query.device.type != "cuda" or _capability(query.device) >= (8, 0))
    )


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _in_halves(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, causal: bool
) -> Attended:
    """About 0.6 of the time of the kernel below (H100). cuDNN's takes half of that, but is built
    for every new shape, which takes 36 ms, and no two batches have the same."""
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, causal, False, scale=scaling
    )
    return output, lse


def _with_any_mask(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None,
    causal: bool,
) -> Attended:
    """It wants as many heads of keys as of queries."""
    key, value = _shared_out(query, key, value)
    if mask is not None:
        mask = _aligned(mask).expand(-1, query.shape[1], -1, -1)
    output, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, 0.0, causal, scale=scaling
    )
    return output, lse[:, :, : query.shape[2]]  # the kernel pads it


def in_steps(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None,
    causal: bool,
) -> Attended:
    """Where no kernel gives a log-sum-exp: double precision on a GPU."""
    key, value = _shared_out(query, key, value)
    scores = query @ key.transpose(-1, -2) * scaling
    if mask is not None:
        scores = scores + mask
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


def _shared_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of as many heads as the queries have."""
    sharing = query.shape[1] // key.shape[1]
    if sharing == 1:
        return key, value
    return key.repeat_interleave(sharing, dim=1), value.repeat_interleave(sharing, dim=1)


def _aligned(mask: torch.Tensor) -> torch.Tensor:
    """The same, with rows that begin at multiples of 8 elements in memory."""
    columns = mask.shape[-1]
    padded = nn.functional.pad(mask, (0, -columns % 8))
    return padded[..., :columns]


def merged(one: Attended, other: Attended) -> Attended:
    """Attention to both."""
    weight = torch.sigmoid(one[1] - other[1])[..., None].to(one[0].dtype)
    return torch.lerp(other[0], one[0], weight), torch.logaddexp(one[1], other[1])
