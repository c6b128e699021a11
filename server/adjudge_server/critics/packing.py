"""Many candidates in one row: each sees the shared prefix and itself, never its neighbours.

The row is the concatenation of every item's own tokens and answer tree. Instead of padding and of
copying the prefix's keys and values for each candidate, a mask says who sees whom, and positions
start again for each item. Pure numpy: it decides, the critic executes, either with one dense mask
over the whole row, or in blocks (`packed_attention`), which is the same and cheaper.
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
class Blocks:
    """The same row cut into its K segments, padded to the longest, L."""

    gather: NDArray[np.int64]
    """(K, L) row of each place; padding repeats the segment's first row."""
    scatter: NDArray[np.int64]
    """(N,) place of each row, counted through all K L places."""
    visible: NDArray[np.bool_]
    """(K, L, L) whether a place attends to another of its segment; padding sees itself."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """N tokens behind a prefix of P: what they are, where they believe they are, whom they see."""

    prefix: int
    token_ids: NDArray[np.int64]
    """(N,)"""
    positions: NDArray[np.int64]
    """(N,) positions in the sequence that each token believes it is in."""
    visible: tuple[NDArray[np.bool_], ...]
    """(n, n) of each segment in order: whether its token (row) attends to another (column)."""
    read_rows: NDArray[np.int64]
    """(R,) row of each read, all segments' reads in order."""
    read_tokens: NDArray[np.int64]
    """(R,) token id whose log-probability is wanted there."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(N, P + N): everybody sees the prefix, and of the row only the own segment."""
        total = len(self.token_ids)
        mask = np.zeros((total, self.prefix + total), np.bool_)
        mask[:, : self.prefix] = True
        start = 0
        for visible in self.visible:
            end = start + len(visible)
            mask[start:end, self.prefix + start : self.prefix + end] = visible
            start = end
        return mask

    @property
    def blocks(self) -> Blocks:
        lengths = [len(visible) for visible in self.visible]
        longest = max(lengths)
        padded = np.zeros((len(lengths), longest, longest), np.bool_)
        padded[:, range(longest), range(longest)] = True
        gather = np.empty((len(lengths), longest), np.int64)
        scatter: list[int] = []
        for k, (length, visible) in enumerate(zip(lengths, self.visible, strict=True)):
            gather[k] = len(scatter)
            gather[k, :length] += np.arange(length)
            scatter += range(k * longest, k * longest + length)
            padded[k, :length, :length] = visible
        return Blocks(gather, np.array(scatter, np.int64), padded)


def pack(segments: Sequence[Segment], prefix: int) -> PackedRow:
    """Packs segments behind a shared prefix of `prefix` tokens."""
    token_ids: list[int] = []
    positions: list[int] = []
    read_rows: list[int] = []
    for segment in segments:
        linear, tree = len(segment.token_ids), segment.tree
        last = len(token_ids) + linear - 1  # row 0 of the tree
        token_ids += [*segment.token_ids, *tree.tokens]
        positions += range(prefix, prefix + linear)
        positions += [prefix + linear + depth for depth in tree.depths]
        read_rows += [last + row for row, _ in tree.reads]
    return PackedRow(
        prefix=prefix,
        token_ids=np.array(token_ids, np.int64),
        positions=np.array(positions, np.int64),
        visible=tuple(_visible(len(s.token_ids), s.tree) for s in segments),
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
