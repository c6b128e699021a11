"""Attention in parts against attention to the whole; and what a GPU's kernel is called with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.critics.attend import attend, in_steps, merged

SIZE = 16


def whole(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = query @ key.transpose(-1, -2) / SIZE**0.5
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 70), tokens=st.integers(2, 90), cut=st.integers(1, 89))
def test_two_parts_merged_are_the_whole(rows: int, tokens: int, cut: int) -> None:
    cut = min(cut, tokens - 1)
    torch.manual_seed(rows * 100 + tokens)
    query = torch.randn(1, 2, rows, SIZE, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, tokens, SIZE, dtype=torch.float64)
    parts = [
        attend(query, key[:, :, part], value[:, :, part], scaling=SIZE**-0.5)
        for part in (slice(cut), slice(cut, None))
    ]
    for found, expected in zip(merged(*parts), whole(query, key, value), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 33, 34, 35, 65])
def test_few_rows_are_as_exact_as_many(rows: int) -> None:
    """The library's kernel sums thousands of keys ten times less exactly for one to three rows."""
    torch.manual_seed(0)
    query = torch.randn(1, 2, rows, SIZE)
    key, value = torch.randn(1, 2, 7000, SIZE), torch.randn(1, 2, 7000, SIZE) + 1
    output, _ = attend(query, key, value, scaling=SIZE**-0.5)
    expected, _ = whole(query.double(), key.double(), value.double())
    assert float((output.double() - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("causal", [True, False])
def test_in_steps_it_is_what_the_kernel_gives(causal: bool) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, 9, SIZE, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, 9, SIZE, dtype=torch.float64)
    found = in_steps(query, key, value, 0.3, None, causal)
    expected = attend(query, key, value, 0.3, causal=causal)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    mask = torch.zeros(2, 1, 9, 9, dtype=torch.float64)
    mask.masked_fill_(torch.ones(9, 9, dtype=torch.bool).triu(1), float("-inf"))
    masked = in_steps(query, key, value, 0.3, mask, causal)
    for one, other in zip(masked, in_steps(query, key, value, 0.3, None, True), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 31, 32, 45])
def test_the_kernel_of_a_gpu_takes_what_it_is_given(dtype: torch.dtype, rows: int) -> None:
    """Shapes and number types only: on this device nothing is computed."""
    query = torch.empty(3, 8, rows, SIZE, device="meta", dtype=dtype)
    key, value = (torch.empty(3, 2, rows, SIZE, device="meta", dtype=dtype) for _ in "kv")
    mask = torch.empty(3, 1, rows, rows, device="meta", dtype=dtype)
    plain = attend(query, key, value, scaling=0.25, causal=True)
    masked = attend(query, *(x.repeat(1, 4, 1, 1) for x in (key, value)), scaling=1, mask=mask)
    for output, lse in (plain, masked, merged(plain, masked)):
        assert output.shape == query.shape and output.dtype is dtype
        assert lse.shape == (3, 8, rows) and lse.dtype is torch.float32
