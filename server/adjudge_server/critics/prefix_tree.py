"""What was computed for the beginnings of prompts, found again by what they are beginnings of.

A radix tree: an edge holds a run of symbols (token ids and pictures) and what was computed for it,
given everything above. Bounded by bytes; what was not used for longest goes first, leaves before
what they stand on. Knows nothing of tensors. Used by one thread.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

Symbol = int | str
"""A token id, or a picture, by its digest, in the place of all of its tokens."""


class Divisible(Protocol):
    """What is kept of a run of tokens."""

    @property
    def nbytes(self) -> int: ...

    def split(self, at: int) -> tuple[Self, Self]:
        """What is kept of the first `at` tokens, and of the others; without shared memory, so that
        one of them can go."""
        ...


K = TypeVar("K", bound=Divisible)


@dataclass(slots=True, eq=False)
class Node(Generic[K]):
    """A run of symbols behind those of its parents. A picture is a run by itself."""

    symbols: tuple[Symbol, ...]
    kept: K
    parent: "Node[K] | None"
    children: dict[Symbol, "Node[K]"] = field(default_factory=dict)

    @property
    def path(self) -> "list[Node[K]]":
        """From the first run of the prompt to this one."""
        path: list[Node[K]] = []
        node: Node[K] | None = self
        while node is not None:
            path.append(node)
            node = node.parent
        return path[::-1]


class PrefixTree(Generic[K]):
    """`max_bytes` bounds what stays after `trim`; between two trims there may be more."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._first: dict[Symbol, Node[K]] = {}
        self._by_use: OrderedDict[Node[K], None] = OrderedDict()
        """Least recently used first, and every node before its parent: so the first is a leaf."""
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._by_use)

    def __iter__(self) -> Iterator[Node[K]]:
        return iter(self._by_use)

    def find(self, symbols: Sequence[Symbol]) -> tuple[Node[K] | None, int]:
        """The node that ends the longest known beginning, and how many symbols long that is.

        A run of which only a part is shared becomes two.
        """
        node: Node[K] | None = None
        matched = 0
        while matched < len(symbols):
            children = self._first if node is None else node.children
            following = children.get(symbols[matched])
            if following is None:
                break
            common = common_symbols(following.symbols, symbols, matched)
            if common < len(following.symbols):
                following = self._split(following, common)
            node = following
            matched += common
        if node is not None:
            self._use(node)
        return node, matched

    def insert(self, parent: Node[K] | None, symbols: tuple[Symbol, ...], kept: K) -> Node[K]:
        """Adds a run behind a node of this tree, that `find` said is not there."""
        siblings = self._first if parent is None else parent.children
        assert symbols[0] not in siblings
        node = Node(symbols, kept, parent)
        siblings[symbols[0]] = node
        self.nbytes += kept.nbytes
        self._use(node)
        return node

    def trim(self) -> None:
        """Forgets what is too much."""
        while self.nbytes > self._max_bytes:
            self._forget(next(iter(self._by_use)))

    def clear(self) -> None:
        self._first.clear()
        self._by_use.clear()
        self.nbytes = 0

    def _use(self, node: Node[K]) -> None:
        for each in reversed(node.path):
            self._by_use[each] = None
            self._by_use.move_to_end(each)

    def _split(self, node: Node[K], at: int) -> Node[K]:
        """Returns the new node above; the given one keeps what comes after."""
        above_kept, below_kept = node.kept.split(at)
        siblings = self._first if node.parent is None else node.parent.children
        above = Node(node.symbols[:at], above_kept, node.parent)
        siblings[above.symbols[0]] = above
        self.nbytes += above_kept.nbytes + below_kept.nbytes - node.kept.nbytes
        node.symbols, node.kept, node.parent = node.symbols[at:], below_kept, above
        above.children[node.symbols[0]] = node
        self._use(above)
        return above

    def _forget(self, node: Node[K]) -> None:
        assert not node.children
        siblings = self._first if node.parent is None else node.parent.children
        del siblings[node.symbols[0]], self._by_use[node]
        self.nbytes -= node.kept.nbytes


def common_symbols(run: Sequence[Symbol], symbols: Sequence[Symbol], start: int) -> int:
    """How many symbols of a run are those that come from `start` on."""
    count = min(len(run), len(symbols) - start)
    if tuple(run[:count]) == tuple(symbols[start : start + count]):
        return count
    return next(i for i in range(count) if run[i] != symbols[start + i])
