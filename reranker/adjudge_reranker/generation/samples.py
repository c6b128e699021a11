"""What policies give: candidates, one by one or several at a time, for as long as they are wanted.

A policy is anything with a method `samples`; `TransformersPolicy` and `OpenAIPolicy` are two.
"""

from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from adjudge_reranker.content import CandidateLike, Message
from adjudge_reranker.generation.errors import GenerationError

C = TypeVar("C", bound=CandidateLike)


class Finish(StrEnum):
    """Why the policy wrote no further."""

    COMPLETE = "complete"
    """It ended its turn, or came to a text it was told to stop at."""
    LENGTH = "length"
    """It was cut off at its limit of tokens."""
    FILTERED = "filtered"
    """A filter of the endpoint left something out."""
    UNKNOWN = "unknown"
    """It did not say, or gave a reason unknown here."""


@dataclass(frozen=True, slots=True)
class Sample(Generic[C]):
    """A candidate that is finished, or why there is none."""

    index: int
    """As given by `Order.begin`."""
    content: C | GenerationError
    finish: Finish = Finish.COMPLETE


class Order(Protocol):
    """What is still wanted of a policy. Belongs to the thread or event loop that reads samples."""

    @property
    def num_wanted(self) -> int:
        """How many more candidates to begin, at most. 0 once the choice is made."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the choice is made, so that what is being generated is wanted no more."""
        ...

    def begin(self, count: int) -> range:
        """Says that `count` more are being generated now; their indices, in the order of asking.

        Raises ValueError if so many are not wanted.
        """
        ...


class Policy(Protocol[C]):
    """Generates candidates in the caller's thread. `TransformersPolicy` is one."""

    def samples(
        self, prompt: Sequence[Message], order: Order
    ) -> Generator[Sequence[Sample[C]], None, None]:
        """Yields candidates as they are finished, until `order.num_wanted` is 0.

        It is closed when no more are wanted. One that takes long between two yields should look at
        `order.is_over` meanwhile.
        """
        ...


class AsyncPolicy(Protocol[C]):
    """Generates candidates without blocking. `OpenAIPolicy` is one."""

    def samples(
        self, prompt: Sequence[Message], order: Order
    ) -> AsyncGenerator[Sequence[Sample[C]], None]:
        """Yields candidates as they are finished, until `order.num_wanted` is 0.

        It is closed when no more are wanted, while it waits for some: then it ends what runs.
        """
        ...
