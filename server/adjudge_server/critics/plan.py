"""What one pass computes: the prompts of a batch as a tree of runs, what is known of it already cut
away.

Prompts that begin alike share the runs they begin with: candidates of a question, both orders of a
pair, every pair with the same first response, questions about one picture. A run is computed once,
and attends to itself and to the runs above it, so no keys and values are copied for anyone. The
rows of a pass are in the order of a walk through the tree; what stands below a run is contiguous.
Pure Python: it decides, `decoder` executes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from adjudge_server.answers import AnswerTree
from adjudge_server.critics.prefix_tree import Divisible, Node, PrefixTree, Symbol, common_symbols
from adjudge_server.critics.preparing import PictureLayout, PreparedPrompt

WORTH_SHARING = 16
"""Rows that sharing a run must save; each run costs two calls more in every layer."""
LONGEST_LEAF = 512
"""Tokens that a prompt ends with by itself, before most of them become a run of their own: those of
a leaf are compared with each other under a mask of all pairs."""

K = TypeVar("K", bound=Divisible)


@dataclass(slots=True, eq=False)
class Run(Generic[K]):
    """Tokens that several prompts go through, to be computed: each sees those before it."""

    symbols: tuple[Symbol, ...]
    position: int
    """Of its first token."""
    num_tokens: int
    above: "Run[K] | Node[K] | None"
    is_kept: bool
    """Whether others will look for it later."""
    offsets: NDArray[Any] | None = None
    """Of a picture whose features do not stand one after the other: see `PictureLayout`."""
    start: int = 0
    """Its first row."""
    end: int = 0
    """The row after everything below it."""


@dataclass(slots=True, eq=False)
class Leaf(Generic[K]):
    """The end of one prompt and its answer tree. Prompts that are equal share it."""

    symbols: tuple[Symbol, ...]
    """The whole prompt."""
    tree: AnswerTree
    cuts: tuple[int, ...]
    """Numbers of symbols after which others may go on differently."""
    indices: list[int]
    """Where its prompts stand in the batch."""
    layouts: dict[Symbol, PictureLayout]
    """Of its pictures."""
    above: "Run[K] | Node[K] | None" = None
    own: tuple[int, ...] = ()
    """The token ids that no run above has; never empty, and no picture is among them."""
    position: int = 0
    start: int = 0

    @property
    def limit(self) -> int:
        """Symbols that it may share: the answers are read from the last one on."""
        return len(self.symbols) - 1

    def length(self, end: int) -> tuple[int, int]:
        """Tokens and positions of the symbols before `end`."""
        pictures = [self.layouts[s] for s in self.symbols[:end] if isinstance(s, str)]
        texts = end - len(pictures)
        return (
            texts + sum(layout.num_tokens for layout in pictures),
            texts + sum(layout.num_positions for layout in pictures),
        )

    @property
    def last(self) -> int:
        """The row of the prompt's last token; those of the answer tree follow."""
        return self.start + len(self.own) - 1

    @property
    def num_rows(self) -> int:
        return len(self.own) + len(self.tree.tokens)

    @property
    def end(self) -> int:
        """The row after its last."""
        return self.start + self.num_rows


@dataclass(slots=True, eq=False)
class Plan(Generic[K]):
    """Runs and leaves in the order of their rows, and which rows stand below which known nodes."""

    runs: list[Run[K]] = field(default_factory=list)
    leaves: list[Leaf[K]] = field(default_factory=list)
    known: list[tuple[Node[K], int, int]] = field(default_factory=list)
    """A node, and the first row below it and the one after the last."""
    num_rows: int = 0
    computed: dict[int, int] = field(default_factory=dict)
    """By place in the batch: rows on its account. What is shared is on the account of the first."""
    num_known: int = 0
    """Different prompts of which a beginning is known."""
    known_tokens: int = 0
    """Of those beginnings, for each such prompt."""


def symbols_of(item: PreparedPrompt) -> tuple[Symbol, ...]:
    """The prompt with every picture as one symbol."""
    symbols: list[Symbol] = []
    start = 0
    for picture, slot in zip(item.pictures, item.picture_starts, strict=True):
        symbols += item.token_ids[start:slot]
        symbols.append(picture.digest)
        start = slot + picture.layout.num_tokens
    symbols += item.token_ids[start:]
    return tuple(symbols)


def make_plan(batch: Sequence[PreparedPrompt], tree: PrefixTree[K]) -> Plan[K]:
    """Looks up what is known, and lays out the rest."""
    leaves: dict[tuple[tuple[Symbol, ...], int], Leaf[K]] = {}
    for index, item in enumerate(batch):
        leaf: Leaf[K] = _leaf(item)
        leaves.setdefault((leaf.symbols, id(leaf.tree)), leaf).indices.append(index)
    layout = _Layout[K]()
    attached: dict[Node[K] | None, tuple[int, list[Leaf[K]]]] = {}
    for leaf in leaves.values():
        node, matched = tree.find(leaf.symbols[: leaf.limit])
        attached.setdefault(node, (matched, []))[1].append(leaf)
    num_known = known_tokens = 0
    for node, (matched, found) in attached.items():
        num_tokens, position = found[0].length(matched)
        layout.grow(node, found, matched, position)
        num_known += len(found) if node is not None else 0
        known_tokens += len(found) * num_tokens
    plan = layout.walk(attached)
    plan.num_known, plan.known_tokens = num_known, known_tokens
    return plan


class _Layout(Generic[K]):
    """Grows the tree of runs, then walks it."""

    def __init__(self) -> None:
        self._below: dict[Run[K] | Node[K] | None, list[Run[K] | Leaf[K]]] = {}
        self._under: dict[Node[K] | None, list[Node[K]]] = {}
        """Known nodes, by the one above."""
        self._plan = Plan[K]()
        self._accounted = 0
        """Rows that are on some prompt's account."""

    def grow(
        self, above: "Run[K] | Node[K] | None", leaves: Sequence[Leaf[K]], start: int, position: int
    ) -> None:
        """Puts below `above`, which ends with symbol `start`, what these prompts go on with."""
        for group in _by_symbol(leaves, start):
            self._grow_group(above, group, start, start, position)

    def _grow_group(
        self,
        above: "Run[K] | Node[K] | None",
        group: Sequence[Leaf[K]],
        start: int,
        compared: int,
        position: int,
    ) -> None:
        """Of prompts that are equal up to `compared`, and there go on with the same symbol or are
        one."""
        end = _common_end(group, compared)
        cuts = [cut for leaf in group for cut in leaf.cuts if cut > start]
        within = [cut for cut in cuts if cut <= end]
        if within or (cuts and len(group) > 1):
            # The tree has one run for each first symbol, so what is kept ends where prompts part.
            self._add_run(above, group, start, min(within, default=end), position, is_kept=True)
        elif (len(group) - 1) * (end - start) >= WORTH_SHARING:
            self._add_run(above, group, start, end, position, is_kept=False)
        elif len(group) > 1:
            for subgroup in _by_symbol(group, end):
                self._grow_group(above, subgroup, start, end, position)
        else:
            self._add_leaf(above, group[0], start, position)

    def _add_run(
        self,
        above: "Run[K] | Node[K] | None",
        group: Sequence[Leaf[K]],
        start: int,
        end: int,
        position: int,
        *,
        is_kept: bool,
    ) -> None:
        symbols = group[0].symbols[start:end]
        run = Run(symbols, position, end - start, above, is_kept)
        num_positions = run.num_tokens
        if layout := group[0].layouts.get(symbols[0]):  # a picture is a run by itself
            run.num_tokens, run.offsets = layout.num_tokens, layout.offsets
            num_positions = layout.num_positions
        self._below.setdefault(above, []).append(run)
        self.grow(run, group, end, position + num_positions)

    def _add_leaf(
        self, above: "Run[K] | Node[K] | None", leaf: Leaf[K], start: int, position: int
    ) -> None:
        if leaf.limit - start > LONGEST_LEAF:
            self._add_run(above, [leaf], start, leaf.limit, position, is_kept=False)
            return
        leaf.above, leaf.position = above, position
        leaf.own = tuple(s for s in leaf.symbols[start:] if isinstance(s, int))
        assert len(leaf.own) == len(leaf.symbols) - start  # pictures are runs by themselves
        self._below.setdefault(above, []).append(leaf)

    def walk(self, attached: Iterable["Node[K] | None"]) -> Plan[K]:
        """Gives rows to everything."""
        for node in attached:
            while node is not None:
                siblings = self._under.setdefault(node.parent, [])
                if node not in siblings:
                    siblings.append(node)
                node = node.parent
        self._visit_below(None)
        return self._plan

    def _visit_below(self, node: "Run[K] | Node[K] | None") -> None:
        plan = self._plan
        for each in self._below.get(node, ()):
            each.start = plan.num_rows
            if isinstance(each, Leaf):
                plan.num_rows += each.num_rows
                plan.leaves.append(each)
                plan.computed |= dict.fromkeys(each.indices, 0)
                plan.computed[each.indices[0]] = plan.num_rows - self._accounted
                self._accounted = plan.num_rows
            else:
                plan.num_rows += each.num_tokens
                plan.runs.append(each)
                self._visit_below(each)
                each.end = plan.num_rows
        if isinstance(node, Run):
            return
        for known in self._under.get(node, ()):
            first = plan.num_rows
            self._visit_below(known)
            plan.known.append((known, first, plan.num_rows))


def _by_symbol(leaves: Sequence[Leaf[K]], at: int) -> list[list[Leaf[K]]]:
    """Groups by the symbol there; those that end with it are alone."""
    groups: dict[object, list[Leaf[K]]] = {}
    for leaf in leaves:
        key: object = leaf.symbols[at] if at < leaf.limit else leaf
        groups.setdefault(key, []).append(leaf)
    return list(groups.values())


def _common_end(group: Sequence[Leaf[K]], compared: int) -> int:
    """How many symbols the prompts have in common, their last ones not counted."""
    first, *others = group
    end = first.limit
    for other in others:
        run = first.symbols[compared : min(end, other.limit)]
        end = compared + common_symbols(run, other.symbols, compared)
    return end


def _leaf(item: PreparedPrompt) -> "Leaf[K]":
    symbols = symbols_of(item)
    saved = len(item.token_ids) - len(symbols)
    pictures = [i for i, symbol in enumerate(symbols) if isinstance(symbol, str)]
    # Around every picture, and where the candidate begins: all pictures come before it.
    cuts = {0, *pictures, *(i + 1 for i in pictures), max(0, item.shared_tokens - saved)}
    layouts: dict[Symbol, PictureLayout] = {p.digest: p.layout for p in item.pictures}
    return Leaf(symbols, item.tree, tuple(sorted(cuts - {0})), [], layouts)
