"""The answer tree: every answer of a template, as tokens, read in one forward pass.

All wordings of all answers are tokenised with the critic's tokenizer and merged into a prefix tree.
One pass over the tree's tokens, each attending to the prompt and to its own ancestors, yields the
exact log-probability of every answer. This file knows tokens, not models.

What the log-probability of an answer is:

* the sum of the log-probabilities of its tokens after the opening, each given those before it;
* if a longer answer extends it (`8` and `85`, `10` and `100`), plus the log-probability that one
  of the template's terminators follows (the log-sum-exp over the *first tokens* of the
  terminators, the end of the turn among them), because otherwise `8` would absorb `80` to `89`;
* if nothing extends it, nothing more: it needs no terminator, and its last token needs no position;
* of an answer with several wordings, the log-sum-exp over them.

The terminator's probability is never taken as 1 - sum(rest): that cancels (in float32 by nats).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from adjudge_server.templates import Template

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wording:
    """How one wording's log-probability is put together, as indices into `AnswerTree.reads`."""

    answer: int
    path: tuple[int, ...]
    """Summed: one read per token."""
    terminators: tuple[int, ...]
    """Log-sum-exp over these is added; empty where nothing extends the wording."""


@dataclass(frozen=True, slots=True)
class AnswerTree:
    """The tokens to append to a prompt, and what to read from the critic's output over them.

    Row 0 is the prompt's last token; row k + 1 is `tokens[k]`. The opening's tokens come first, in
    a chain; the tree's follow, parents before children.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    """parents[k]: the row that tokens[k] follows; it attends to that row and its ancestors."""
    depths: tuple[int, ...]
    """depths[k]: tokens between the prompt and tokens[k], which fixes its position."""
    reads: tuple[tuple[int, int], ...]
    """(row, token id): the log-probabilities needed, of that token following that row."""
    opening: tuple[int, ...]
    """Indices into `reads`: the opening's tokens."""
    wordings: tuple[Wording, ...]
    num_answers: int
    visible: NDArray[np.bool_] = field(init=False, repr=False, compare=False)
    """(tokens, tokens) whether a token (row) attends to another (column): itself and ancestors."""
    _sums: "_Sums" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "visible", _visible(self.parents))
        object.__setattr__(self, "_sums", _sums(self.wordings, len(self.reads)))

    def opening_mass(self, values: Floats) -> float:
        """Log-probability of the opening in nats, from the log-probabilities of `reads`."""
        return float(values[list(self.opening)].sum())

    def answer_log_probs(self, values: Floats) -> Floats:
        """(num_answers,) log-probabilities given the opening, from those of `reads`."""
        padded = np.concatenate([values, [0.0, -np.inf]])
        wordings = padded[self._sums.paths].sum(axis=1)
        wordings += np.logaddexp.reduce(padded[self._sums.terminators], axis=1)
        totals = np.full(self.num_answers, -np.inf)
        np.logaddexp.at(totals, self._sums.answers, wordings)
        return totals


def _visible(parents: Sequence[int]) -> NDArray[np.bool_]:
    visible = np.eye(len(parents), dtype=np.bool_)
    for k, parent in enumerate(parents):
        if parent > 0:
            visible[k] |= visible[parent - 1]
    return visible


@dataclass(frozen=True, slots=True)
class _Sums:
    """The wordings as index arrays, because a loop over 101 of them costs as much as the model.

    Rows are padded: index R, one past the reads, stands for log 1, and R + 1 for log 0.
    """

    paths: NDArray[np.int64]
    """(wordings, longest path)"""
    terminators: NDArray[np.int64]
    """(wordings, most terminators)"""
    answers: NDArray[np.int64]
    """(wordings,) the answer each belongs to."""


def _sums(wordings: Sequence[Wording], num_reads: int) -> _Sums:
    one, zero = num_reads, num_reads + 1
    return _Sums(
        paths=_rows([w.path for w in wordings], one),
        terminators=_rows([w.terminators or (one,) for w in wordings], zero),
        answers=np.array([w.answer for w in wordings], np.int64),
    )


def _rows(rows: Sequence[Sequence[int]], padding: int) -> NDArray[np.int64]:
    width = max(map(len, rows), default=0)
    padded = [[*row, *[padding] * (width - len(row))] for row in rows]
    return np.array(padded, np.int64).reshape(len(rows), width)


NO_ANSWERS = AnswerTree(
    tokens=(), parents=(), depths=(), reads=(), opening=(), wordings=(), num_answers=0
)
"""Of critics that do not speak: only the prompt is read."""


Encode = Callable[[str], Sequence[int]]


def answer_tree(
    template: Template,
    encode: Encode,
    turn: str,
    end_of_turn: int,
    *,
    opening: str | None = None,
    lead: str = "",
) -> AnswerTree:
    """Compiles a template's answers with a critic's tokenizer.

    `turn` is the text between the last special token of the prompt and where the answers are read
    (`assistant\\n`, and what the critic has written): the critic's words are tokenised together
    with it. `opening` is that of the template, unless the critic chose another. `lead` comes before
    it, most often the space that is one token with the word after it; where there is no opening, it
    belongs to the answers. Raises ValueError if the tokenizer merges a token across the seam of
    opening and answer or of answer and terminator, for then the template's definition of an answer
    would mean nothing.
    """
    opening = template.opening if opening is None else opening
    opening, lead = (lead + opening, "") if opening else ("", lead)
    return _TreeBuilder(template, encode, turn, end_of_turn, opening, lead).build()


class _TreeBuilder:
    def __init__(
        self, template: Template, encode: Encode, turn: str, end: int, opening: str, lead: str
    ) -> None:
        self._template = template
        self._encode = cache(encode)  # the text before an answer is the same for all of them
        self._turn = turn
        self._end_of_turn = end
        self._opening = opening
        self._lead = lead
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._rows: dict[tuple[int, ...], int] = {}
        """Row of every token path (from the first word of the turn) that has one."""
        self._reads: dict[tuple[int, int], int] = {}
        self._known_paths: set[tuple[int, ...]] = set()
        """Every token path, after the opening, of an answer or the beginning of one."""

    def build(self) -> AnswerTree:
        template = self._template
        opening = self._continuation(self._opening, after="")
        forms = [
            (index, self._lead + form)
            for index, answer in enumerate(template.answers)
            for form in answer.forms
        ]
        wordings = [
            (index, form, tuple(self._continuation(form, after=self._opening)))
            for index, form in forms
        ]
        paths = [path for _, _, path in wordings]
        if len(set(paths)) != len(paths):
            raise ValueError(f"template {template.name!r}: two answers have the same tokens")
        inner = {path[:n] for path in paths for n in range(1, len(path))}
        self._known_paths = inner.union(paths)
        prefix = tuple(opening)
        self._rows[()] = 0
        for n in range(len(prefix)):
            self._add_row(prefix[: n + 1])
        for path in sorted(inner, key=lambda p: (len(p), p)):
            self._add_row(prefix + path)
        opening_reads = self._path_reads((), prefix)
        compiled = tuple(
            Wording(
                answer=index,
                path=self._path_reads(prefix, path),
                terminators=self._terminator_reads(form, path, prefix) if path in inner else (),
            )
            for index, form, path in wordings
        )
        return AnswerTree(
            tokens=tuple(self._tokens),
            parents=tuple(self._parents),
            depths=tuple(self._depths),
            reads=tuple(self._reads),
            opening=opening_reads,
            wordings=compiled,
            num_answers=len(template.answers),
        )

    def _continuation(self, text: str, *, after: str) -> list[int]:
        """Tokens of `text` where it follows `after` in the critic's turn."""
        before = list(self._encode(self._turn + after))
        whole = list(self._encode(self._turn + after + text))
        if whole[: len(before)] != before:
            raise ValueError(
                f"template {self._template.name!r}: this tokenizer merges {text!r} into the text"
                f" before it, {after or self._turn!r}"
            )
        return whole[len(before) :]

    def _add_row(self, path: tuple[int, ...]) -> None:
        self._parents.append(self._rows[path[:-1]])
        self._tokens.append(path[-1])
        self._depths.append(len(path) - 1)
        self._rows[path] = len(self._tokens)

    def _read(self, row: int, token: int) -> int:
        return self._reads.setdefault((row, token), len(self._reads))

    def _path_reads(self, prefix: tuple[int, ...], path: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            self._read(self._rows[prefix + path[:n]], token) for n, token in enumerate(path)
        )

    def _terminator_reads(
        self, form: str, path: tuple[int, ...], prefix: tuple[int, ...]
    ) -> tuple[int, ...]:
        row = self._rows[prefix + path]
        after = self._opening + form
        first = [self._continuation(t, after=after)[0] for t in self._template.terminators]
        if any((*path, token) in self._known_paths for token in first):
            raise ValueError(
                f"template {self._template.name!r}: a terminator also extends {form!r}"
            )
        return tuple(self._read(row, token) for token in dict.fromkeys([*first, self._end_of_turn]))
