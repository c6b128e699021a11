"""The answer tree as requests: which tokens follow which row, and what an answer to it says.

A request reads a row: the log-probabilities of chosen tokens after the prompt and the row's own
tokens. Because vLLM goes on from there at little cost, it is let write greedily, nothing but tokens
of the tree: where it follows the tree (`Score: 8`), the rows on the way are read by the same
request; where it leaves it, what was read there is dropped, and next time it is let write less. So
the numbers do not depend on what it writes, only their price does. Pure: no HTTP here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, isfinite, log1p, nan
from typing import Any

import numpy as np

from adjudge_server.answers import AnswerTree

MOST_IDS = 128
"""Tokens that one request may ask for; vLLM's own bound."""
FLOOR = -9999.0
"""What vLLM says for a log-probability that JSON cannot: not a number, or minus infinity."""
SLACK = 1e-4
"""By which a log-probability may exceed 0: rounding."""
EXCESS = 1e-3
"""By which probabilities may sum to more than 1: rounding."""

TRY_AGAIN = 16
"""Requests for a row, after which it is let write as far as the tree is deep again."""

LogProbs = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Walk:
    """One request: from a row on, down the tree."""

    row: int
    ids: tuple[int, ...]
    """Whose log-probabilities are asked for, at every step."""
    allowed: tuple[int, ...]
    """What may be written."""
    steps: int
    """Tokens to write at most: rows to read."""


class TreeRows:
    """Of one answer tree, with the ids of the head's padding, which are asked for every time."""

    def __init__(self, tree: AnswerTree, padding: Sequence[int]) -> None:
        self.tree = tree
        self._padding = tuple(padding)
        self._reads: dict[int, dict[int, int]] = {}
        for index, (row, token) in enumerate(tree.reads):
            self._reads.setdefault(row, {})[token] = index
        self._children: dict[int, dict[int, int]] = {}
        for k, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True)):
            self._children.setdefault(parent, {})[token] = k + 1
        self._followed: dict[int, int] = {}
        """By row: rows that were read at once the last time."""
        self._asked: dict[int, int] = {}
        """By row: how often it was asked for."""

    @cached_property
    def num_rows(self) -> int:
        return len(self._reads)

    def path(self, row: int) -> list[int]:
        """The tokens from the prompt to a row."""
        path: list[int] = []
        while row:
            path.append(self.tree.tokens[row - 1])
            row = self.tree.parents[row - 1]
        return path[::-1]

    def walks(self, row: int) -> list[Walk]:
        """The requests that read a row; several only where there are more tokens than one may ask
        for."""
        below = self._below(row)
        ids = {token for each in below for token in self._reads[each]}
        steps = self._steps(row, below)
        room = MOST_IDS - len(self._padding)
        if steps > 1 and len(ids) <= room:
            written = {t for each in below for t in self._children.get(each, ())}
            return [Walk(row, self._with_padding(ids), tuple(sorted(written)), steps)]
        own = sorted(self._reads[row])
        chunks = [own[start : start + room] for start in range(0, len(own), room)]
        return [Walk(row, self._with_padding(chunk), tuple(chunk), 1) for chunk in chunks]

    def follow(
        self, walk: Walk, steps: Sequence[tuple[int, LogProbs]], values: "np.ndarray[Any, Any]"
    ) -> list[int]:
        """Puts what was read into `values`, which has a place for each of the tree's reads, and
        says which rows that was. `steps`: at each, the token written and what was asked for."""
        rows: list[int] = []
        row: int | None = walk.row
        for token, log_probs in steps:
            if row is None:
                break
            shift = correction([log_probs[i] for i in self._padding])
            for read, index in self._reads[row].items():
                if read in log_probs:
                    values[index] = log_probs[read] + shift
            rows.append(row)
            row = self._children.get(row, {}).get(token)
        self._followed[walk.row] = len(rows)
        return rows

    def next_rows(self, read: Sequence[int]) -> list[int]:
        """The rows right below those, that are none of them."""
        below = [child for row in read for child in self._children.get(row, {}).values()]
        return [row for row in below if row not in read]

    def _steps(self, row: int, below: Sequence[int]) -> int:
        deepest = max(self._depth(each) for each in below) - self._depth(row) + 1
        asked = self._asked.get(row, 0)
        self._asked[row] = asked + 1
        if asked % TRY_AGAIN == 0:
            return deepest
        return min(deepest, self._followed.get(row, deepest))

    def _below(self, row: int) -> list[int]:
        """The row and all rows below it."""
        rows = [row]
        for each in rows:
            rows += self._children.get(each, {}).values()
        return rows

    def _depth(self, row: int) -> int:
        return self.tree.depths[row - 1] + 1 if row else 0

    def _with_padding(self, ids: "set[int] | list[int]") -> tuple[int, ...]:
        return (*sorted(ids), *self._padding)


def correction(padding: Sequence[float]) -> float:
    """What to add to a log-probability over the head's rows, so that it is one over the
    tokenizer's entries: the padding rows' share is taken away."""
    share = sum(exp(value) for value in padding)
    return -log1p(-share) if 0 <= share < 1 else nan


def may_be_log_probs(values: Iterable[float]) -> bool:
    """Of different tokens: they are no more than 1 together. Some engines give logits by that name.
    What is no number is left to whoever reads it."""
    return sum(exp(value) for value in values if isfinite(value)) <= 1 + EXCESS


def may_be_likeliest(values: Collection[float], num_rows: int) -> bool:
    """Whether they may be the largest log-probabilities of all: none of the others is larger than
    the least of them, and all together they are 1."""
    others = (num_rows - len(values)) * exp(min(values, default=nan))
    return may_be_log_probs(values) and sum(map(exp, values)) + others >= 1 - EXCESS


def sampling(walk: Walk) -> dict[str, Any]:
    """vLLM's sampling parameters. What is written is always among the ids, because where it is not,
    the answer leaves out one of them."""
    return {
        "max_tokens": walk.steps,
        "temperature": 0.0,
        "logprobs": len(walk.ids),
        "logprob_token_ids": list(walk.ids),
        "allowed_token_ids": list(walk.allowed),
        "ignore_eos": True,
        "detokenize": False,
    }


def likeliest(count: int) -> dict[str, Any]:
    """vLLM's sampling parameters for the log-probabilities of those tokens."""
    return {
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": count,
        "ignore_eos": True,
        "detokenize": False,
    }


def steps_of(choice: Mapping[str, Any]) -> list[tuple[int, LogProbs]]:
    """Of an answer. A log-probability that is none is not a number here. Raises KeyError, TypeError
    or ValueError for an answer of another form."""
    content = choice["logprobs"]["content"]
    tokens = choice["token_ids"]
    return [
        (token, {each["token_id"]: _value(each["logprob"]) for each in step["top_logprobs"]})
        for token, step in zip(tokens, content, strict=True)
    ]


def _value(log_prob: float) -> float:
    return log_prob if FLOOR < log_prob <= SLACK else nan
