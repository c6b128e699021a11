"""The prefix tree against a plain model of it."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from adjudge_server.critics.prefix_tree import Node, PrefixTree, Symbol

Path = tuple[Symbol, ...]


@dataclass(frozen=True)
class Tokens:
    """What is kept of a run is the run itself."""

    symbols: Path

    @property
    def nbytes(self) -> int:
        return 10 * len(self.symbols)

    def split(self, at: int) -> tuple["Tokens", "Tokens"]:
        return Tokens(self.symbols[:at]), Tokens(self.symbols[at:])


def remember(tree: PrefixTree[Tokens], path: Path) -> int:
    """As the decoder does it; returns how much was known."""
    node, matched = tree.find(path)
    if matched < len(path):
        tree.insert(node, path[matched:], Tokens(path[matched:]))
    tree.trim()
    return matched


def whole(node: Node[Tokens] | None) -> Path:
    return () if node is None else tuple(s for each in node.path for s in each.symbols)


PATHS = st.lists(
    st.lists(st.sampled_from([1, 2, 3, "a picture"]), min_size=1, max_size=7).map(tuple),
    max_size=30,
)


@given(PATHS)
def test_the_longest_known_beginning_is_found(paths: list[Path]) -> None:
    tree: PrefixTree[Tokens] = PrefixTree(10**9)
    known: set[Path] = {()}
    for path in paths:
        node, matched = tree.find(path)
        assert matched == max(n for n in range(len(path) + 1) if path[:n] in known)
        assert whole(node) == path[:matched]
        remember(tree, path)
        known |= {path[:n] for n in range(len(path) + 1)}


@given(PATHS, st.integers(0, 300))
def test_bytes_are_bounded_and_counted_and_runs_hold_what_is_theirs(
    paths: list[Path], max_bytes: int
) -> None:
    tree: PrefixTree[Tokens] = PrefixTree(max_bytes)
    for path in paths:
        remember(tree, path)
        assert tree.nbytes == sum(node.kept.nbytes for node in tree) <= max_bytes
        for node in tree:
            assert node.kept.symbols == node.symbols
            siblings = tree._first if node.parent is None else node.parent.children
            assert siblings[node.symbols[0]] is node
            assert node.parent is None or node.parent in tree._by_use


@given(PATHS)
def test_what_was_not_used_for_longest_goes_first(paths: list[Path]) -> None:
    room = 100
    tree: PrefixTree[Tokens] = PrefixTree(room)
    for path in paths:
        remember(tree, path)
        if 10 * len(path) <= room:
            assert tree.find(path)[1] == len(path)


def test_clearing_forgets_everything() -> None:
    tree: PrefixTree[Tokens] = PrefixTree(1000)
    remember(tree, (1, 2, "a picture"))
    tree.clear()
    assert tree.find((1, 2, "a picture")) == (None, 0)
    assert (tree.nbytes, len(tree)) == (0, 0)
