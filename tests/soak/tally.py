"""What came back, checked against the truth as it comes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adjudge_reranker import Failure, RewardError
from adjudge_reranker.errors import DeadlineExceeded, ServerFault
from adjudge_reranker.types import Comparison, CritiqueText, CritiqueVerdict, Reward
from tests.soak.questions import Question
from tests.soak.truth import Number, Truth

REWARD_POINTS = 0.01
MARGIN_NATS = 1e-4

HONEST = frozenset({"score", "compare", "critique", "blocking", "visit", "fail over"})
"""Callers who ask for nothing wrong and wait for the answer: being late, or hung up on, is no
answer. (Who fails over has another server to ask when one was killed.)"""

Item = Reward | Comparison | Failure


@dataclass
class Tally:
    truths: Mapping[int, Truth]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Who asked, and what came of it."""
    wrong: list[str] = field(default_factory=list)
    """Numbers that are not the truth."""
    untyped: list[str] = field(default_factory=list)
    """Failures that say nothing, or that something is broken; what never came."""
    num_checked: int = 0
    """Numbers that were compared with the truth."""
    largest_reward_error: float = 0.0
    largest_margin_error: float = 0.0
    pictures: set[int] = field(default_factory=set)
    """Numbers of those that were judged."""

    def count(self, who: str, what: str) -> None:
        self.counts[who, what] += 1

    def scored(self, who: str, asked: Question, outcomes: Sequence[Item]) -> None:
        """The question's own candidates come first; there may be more outcomes."""
        truth = self.truths.get(asked.number)
        for index, outcome in enumerate(outcomes):
            is_known = truth is not None and index < len(truth.rewards)
            right = truth.rewards[index] if truth is not None and is_known else None
            self._item(who, asked, outcome, right)
        self._judged(asked, outcomes)

    def compared(self, who: str, asked: Question, outcome: Item, *, both: bool) -> None:
        truth = self.truths.get(asked.number)
        right = None if truth is None else truth.margin if both else truth.margin_as_given
        self._item(who, asked, outcome, right)
        self._judged(asked, [outcome])

    def criticised(self, who: str, asked: Question, events: Sequence[object]) -> None:
        """All that was written about the first candidate."""
        truth = self.truths.get(asked.number)
        text = "".join(event.text for event in events if isinstance(event, CritiqueText))
        known = None if truth is None else truth.critique
        if known is not None and text != known:
            self.wrong.append(f"{who}, question {asked.number}: {text!r} is not {known!r}")
        verdicts = [event.outcome for event in events if isinstance(event, CritiqueVerdict)]
        if len(verdicts) != 1:
            self.untyped.append(f"{who}: {len(verdicts)} verdicts in a critique")
        for outcome in verdicts:
            self._item(who, asked, outcome, None if truth is None else truth.verdict)

    def failed(self, who: str, error: BaseException) -> None:
        """A call failed as a whole."""
        if not isinstance(error, RewardError):
            self.untyped.append(f"{who}: {type(error).__name__}: {error}")
        elif type(error) is RewardError or isinstance(error, ServerFault):
            self.untyped.append(f"{who}: {error!r} {error}")
        elif who in HONEST and (error.reason is None or isinstance(error, DeadlineExceeded)):
            self.untyped.append(f"{who} got no answer: {error!r} {error}")
        else:
            self.count(who, error.reason or error.code.name)

    def _judged(self, asked: Question, outcomes: Sequence[Item]) -> None:
        if not all(isinstance(outcome, Failure) for outcome in outcomes):
            self.pictures.add(asked.number)

    def _item(self, who: str, asked: Question, outcome: Item, right: Number | None) -> None:
        if isinstance(outcome, Failure):
            got: Number = outcome.error.reason or "UNTYPED"
            self.failed(who, outcome.error)
        else:
            self.count(who, "OK")
            got = outcome.reward if isinstance(outcome, Reward) else outcome.margin
            if not math.isfinite(got):
                self.wrong.append(f"{who}, question {asked.number}: {got}")
        if right is not None and not self._is_right(outcome, got, right):
            self.wrong.append(f"{who}, question {asked.number}: {got} is not {right}")

    def _is_right(self, outcome: Item, got: Number, right: Number) -> bool:
        if got in ("QUEUE_FULL", "NOT_READY", "DEADLINE_EXCEEDED"):
            return True  # a part of a large request that was not judged; `failed` has its say
        self.num_checked += 1
        if isinstance(got, str) or isinstance(right, str):
            return got == right
        off = abs(got - right)
        if isinstance(outcome, Reward):
            self.largest_reward_error = max(self.largest_reward_error, off)
            return off <= REWARD_POINTS
        self.largest_margin_error = max(self.largest_margin_error, off)
        return off <= MARGIN_NATS
