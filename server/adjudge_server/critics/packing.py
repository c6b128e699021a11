"""Many candidates in one row: each sees the shared prefix and itself, never its neighbours.

The row is the concatenation of every item's own tokens and answer tree. Instead of padding and of
copying the prefix's keys and values for each candidate, one attention mask says who sees whom, and
positions start again for each item. Pure numpy: it decides, the critic executes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adjudge_server.answers import AnswerTree


@dataclass(frozen=True, slots=True)
class Segment:
    """One item of the row: the end of its prompt, then its answer tree."""

    token_ids: tuple[int, ...]
    """The prompt's tokens after the shared prefix; at least one."""
    tree: AnswerTree


@dataclass(frozen=True, slots=True)
class PackedRow:
    """N tokens behind a prefix of P. Mask and positions are the whole of what makes it correct."""

    token_ids: NDArray[np.int64]
    """(N,)"""
    positions: NDArray[np.int64]
    """(N,) positions in the sequence that each token believes it is in."""
    mask: NDArray[np.bool_]
    """(N, P + N) whether a token (row) attends to another (column)."""
    read_rows: NDArray[np.int64]
    """(R,) row of each read, all segments' reads in order."""
    read_tokens: NDArray[np.int64]
    """(R,) token id whose log-probability is wanted there."""


def pack(segments: Sequence[Segment], prefix: int) -> PackedRow:
    """Packs segments behind a shared prefix of `prefix` tokens."""
    total = sum(len(s.token_ids) + len(s.tree.tokens) for s in segments)
    positions = np.empty(total, np.int64)
    mask = np.zeros((total, prefix + total), np.bool_)
    mask[:, :prefix] = True
    token_ids: list[int] = []
    read_rows: list[int] = []
    for segment in segments:
        start, linear, tree = len(token_ids), len(segment.token_ids), segment.tree
        end = start + linear + len(tree.tokens)
        token_ids += [*segment.token_ids, *tree.tokens]
        positions[start : start + linear] = prefix + np.arange(linear)
        positions[start + linear : end] = prefix + linear + np.array(tree.depths, np.int64)
        mask[start:end, prefix + start : prefix + end] = _visible(linear, tree)
        last = start + linear - 1  # row 0 of the tree
        read_rows += [last + row for row, _ in tree.reads]
    return PackedRow(
        token_ids=np.array(token_ids, np.int64),
        positions=positions,
        mask=mask,
        read_rows=np.array(read_rows, np.int64),
        read_tokens=np.array([t for s in segments for _, t in s.tree.reads], np.int64),
    )


def _visible(linear: int, tree: AnswerTree) -> NDArray[np.bool_]:
    """(n, n) of one segment: causal over the prompt, ancestors only within the tree."""
    size = linear + len(tree.tokens)
    visible = np.tri(size, dtype=np.bool_)
    visible[linear:, linear:] = False
    for k, parent in enumerate(tree.parents):
        row = linear + k
        if parent > 0:
            visible[row] = visible[linear + parent - 1]
        visible[row, row] = True
    return visible
