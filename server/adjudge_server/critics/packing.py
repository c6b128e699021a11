"""The rows of a pass as arrays: what they are, where they believe they are, whom they see.

A row sees its own segment (the run or leaf it is in), as far as that says, and the whole of every
run above. Instead of one mask of all pairs, segments are put together in blocks, and what is above
is said in spans. Pure numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adjudge_server.critics.plan import Leaf, Plan, Run

LONGEST_IN_BLOCK = 512
"""Tokens of a run, before it attends to itself alone, and without a mask of all pairs."""


@dataclass(frozen=True, slots=True)
class Block:
    """K segments of like lengths, padded to the longest, L."""

    rows: NDArray[np.int64]
    """(K, L) the row in each place; padding repeats the segment's first."""
    places: NDArray[np.int64]
    """(n,) places that are no padding, counted through all K L."""
    visible: NDArray[np.bool_]
    """(K, L, L) whether a place attends to another of its segment; padding sees itself."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """N rows."""

    token_ids: NDArray[np.int64]
    """(N,) 0 where a picture's features stand."""
    positions: NDArray[np.int64]
    """(N,) in the sequence that each token believes it is in; (3, N), in time, height and width,
    where there are pictures whose features stand side by side."""
    pictures: tuple[tuple[str, int], ...]
    """Digest and first row of each picture to be computed."""
    blocks: tuple[Block, ...]
    causal: tuple[tuple[int, int], ...]
    """First row and end of each segment that is in no block: a row sees those before it."""
    spans: tuple[tuple[int, int, int], ...]
    """Start, end, last: the rows from `end` to `last` see all of those from `start` to `end`."""
    read: NDArray[np.int64]
    """(R,) rows whose hidden states are read: the last of each prompt, and its answer tree."""


@dataclass(frozen=True, slots=True)
class _Segment:
    start: int
    visible: NDArray[np.bool_]


def pack(plan: Plan[Any]) -> PackedRows:
    token_ids = np.zeros(plan.num_rows, np.int64)
    is_flat = all(run.offsets is None for run in plan.runs)
    positions = np.empty(plan.num_rows if is_flat else (3, plan.num_rows), np.int64)
    pictures: list[tuple[str, int]] = []
    for run in plan.runs:
        end = run.start + run.num_tokens
        offsets = np.arange(run.num_tokens) if run.offsets is None else run.offsets
        positions[..., run.start : end] = run.position + offsets
        if isinstance(run.symbols[0], str):
            pictures.append((run.symbols[0], run.start))
        else:
            token_ids[run.start : end] = run.symbols
    for leaf in plan.leaves:
        rows = slice(leaf.start, leaf.start + leaf.num_rows)
        token_ids[rows] = (*leaf.own, *leaf.tree.tokens)
        positions[..., rows] = leaf.position + _depths(leaf)
    chains = _chains(plan)
    in_chains = {chain.leaf for chain in chains}
    ends = [leaf for leaf in plan.leaves if leaf not in in_chains]
    segments = [_Segment(leaf.start, _visible(leaf)) for leaf in ends]
    causal: list[tuple[int, int]] = []
    for chain in chains:
        if (length := chain.end - chain.start) > LONGEST_IN_BLOCK:
            causal.append((chain.start, chain.end))
        else:
            segments.append(_Segment(chain.start, np.tri(length, dtype=np.bool_)))
    return PackedRows(
        token_ids=token_ids,
        positions=positions,
        pictures=tuple(pictures),
        blocks=tuple(_block(chosen) for chosen in _of_like_lengths(segments)),
        causal=tuple(causal),
        spans=tuple((c.start, c.end, c.last) for c in chains if c.last > c.end),
        read=np.array([row for leaf in plan.leaves for row in range(leaf.last, leaf.end)]),
    )


@dataclass(slots=True, eq=False)
class _Chain:
    """Runs that follow each other, with nothing beside them: they attend as one."""

    start: int
    end: int
    last: int
    """The row after everything below them."""
    ends_with: Run[Any]
    leaf: Leaf[Any] | None = None
    """Where one without answers is all that follows, it is in the chain."""


def _is_all_below(run: Run[Any], chain: _Chain) -> bool:
    return run.start == chain.end and run.end == chain.last


def _chains(plan: Plan[Any]) -> list[_Chain]:
    chains: list[_Chain] = []
    for run in plan.runs:
        end = run.start + run.num_tokens
        before = chains[-1] if chains else None
        if before and run.above is before.ends_with and _is_all_below(run, before):
            before.end, before.ends_with = end, run
        else:
            chains.append(_Chain(run.start, end, run.end, run))
    by_run = {chain.ends_with: chain for chain in chains}
    for leaf in plan.leaves:
        chain = by_run.get(leaf.above) if isinstance(leaf.above, Run) else None
        if chain and not leaf.tree.tokens and chain.end + leaf.num_rows == chain.last:
            chain.end, chain.leaf = chain.last, leaf
    return chains


def _depths(leaf: Leaf[Any]) -> NDArray[np.int64]:
    """(rows,) tokens before each, since the leaf's first."""
    linear = len(leaf.own)
    return np.array([*range(linear), *(linear + depth for depth in leaf.tree.depths)], np.int64)


def _visible(leaf: Leaf[Any]) -> NDArray[np.bool_]:
    """(rows, rows): causal over the prompt, ancestors only within the tree."""
    linear = len(leaf.own)
    visible = np.tri(leaf.num_rows, dtype=np.bool_)
    visible[linear:, linear:] = leaf.tree.visible
    return visible


def _of_like_lengths(segments: Sequence[_Segment]) -> list[list[_Segment]]:
    """Such that padding to the longest at most doubles them: one long candidate must not make
    hundreds of short ones as long."""
    blocks: list[list[_Segment]] = []
    total = 0
    for segment in sorted(segments, key=lambda s: len(s.visible)):
        length = len(segment.visible)
        if not blocks or (len(blocks[-1]) + 1) * length > 2 * (total + length):
            blocks.append([])
            total = 0
        blocks[-1].append(segment)
        total += length
    return blocks


def _block(segments: Sequence[_Segment]) -> Block:
    longest = max(len(segment.visible) for segment in segments)
    visible = np.zeros((len(segments), longest, longest), np.bool_)
    visible[:, range(longest), range(longest)] = True
    rows = np.empty((len(segments), longest), np.int64)
    places: list[NDArray[np.int64]] = []
    for k, segment in enumerate(segments):
        length = len(segment.visible)
        rows[k] = segment.start
        rows[k, :length] += np.arange(length)
        visible[k, :length, :length] = segment.visible
        places.append(k * longest + np.arange(length))
    return Block(rows, np.concatenate(places), visible)
