"""Stages 3 to 5 of a request: prepared off the loop, queued, read by the model. No protobuf."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from adjudge_server import leaving
from adjudge_server.accepted import Answered, Caller
from adjudge_server.background import as_exception, outcomes_of
from adjudge_server.batcher import Batcher
from adjudge_server.config import Config
from adjudge_server.critic import Critic, Prepared, Query, Reading
from adjudge_server.errors import AdjudgeError, NotReady, WrongEpoch
from adjudge_server.self_check import SelfCheck

P = TypeVar("P", bound=Prepared)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers: a model, by its name, and which weights of it."""

    name: str
    fingerprint: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a request's readings cost."""

    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    input_tokens: int = 0
    image_tokens: int = 0
    computed_tokens: int = 0

    def with_(self, other: "Work") -> "Work":
        """The cost of both: the longest of the times, the sum of the tokens."""
        return Work(
            max(self.queue_seconds, other.queue_seconds),
            max(self.inference_seconds, other.inference_seconds),
            self.input_tokens + other.input_tokens,
            self.image_tokens + other.image_tokens,
            self.computed_tokens + other.computed_tokens,
        )


@dataclass(frozen=True, slots=True)
class Readings:
    """One reading per query in order, or why there is none; and what they cost together."""

    items: list[Reading | AdjudgeError]
    work: Work


class Judge(Generic[P]):
    """A critic at work in one weights epoch: its batcher, its helpers off the loop, and what its
    first answers showed."""

    def __init__(
        self,
        critic: Critic[P],
        batcher: Batcher[P],
        pool: Executor,
        self_check: SelfCheck,
        config: Config,
        weights_epoch: int = 0,
    ) -> None:
        """`config`: the critic's own."""
        self.critic = critic
        self.card = critic.card
        self.batcher = batcher
        self.self_check = self_check
        self.noise_floor = self_check.noise_floor
        self.config = config
        self.weights_epoch = weights_epoch
        self.identity = Identity(critic.card.name, critic.card.fingerprint, weights_epoch)
        self._pool = pool

    def moved(self, self_check: SelfCheck, weights_epoch: int) -> "Judge[P]":
        """The judge after the critic's weights moved."""
        return Judge(self.critic, self.batcher, self._pool, self_check, self.config, weights_epoch)

    async def aside(self, function: Callable[[], R]) -> R:
        """Runs CPU work off the event loop, until its caller leaves (see `leaving`). Raises
        CriticFailure for what is no Exception."""
        return await leaving.run_in(self._pool, partial(as_exception, function))

    async def prepare(self, queries: Sequence[Query | AdjudgeError]) -> list[P | AdjudgeError]:
        """Prepares what can be; errors keep their places."""
        sound = [query for query in queries if isinstance(query, Query)]
        prepared = iter(await self.aside(partial(self.critic.prepare, sound)))
        return [q if isinstance(q, AdjudgeError) else next(prepared) for q in queries]

    async def read(self, items: Sequence[P | AdjudgeError], caller: Caller) -> Readings:
        """Asks the model. Raises QueueFull, NotReady (also where the server ends before all was
        read), and WrongEpoch where the weights moved meanwhile; other failures take their item's
        place.

        Cancelling the caller takes what still waits out of the queue.
        """
        sound = [item for item in items if not isinstance(item, AdjudgeError)]
        caller = replace(caller, epoch=self.weights_epoch)
        answers = await outcomes_of(self.batcher.submit(sound, caller))
        if error := next((a for a in answers if isinstance(a, WrongEpoch | NotReady)), None):
            raise error
        answered = iter(answers)
        results = [i if isinstance(i, AdjudgeError) else next(answered) for i in items]
        outcomes: list[Reading | AdjudgeError] = []
        for result in results:
            if isinstance(result, Answered):
                outcomes.append(result.reading)
            elif isinstance(result, AdjudgeError):
                outcomes.append(result)
            else:
                raise result
        return Readings(outcomes, work_of(sound, [a for a in answers if isinstance(a, Answered)]))


def work_of(items: Sequence[Prepared], answers: Sequence[Answered] = ()) -> Work:
    """The cost of items, and of the answers that they got."""
    return Work(
        queue_seconds=max((a.queue_seconds for a in answers), default=0.0),
        inference_seconds=max((a.inference_seconds for a in answers), default=0.0),
        input_tokens=sum(item.shared_tokens + item.own_tokens for item in items),
        image_tokens=sum(item.image_tokens for item in items),
        computed_tokens=sum(a.reading.computed_tokens for a in answers),
    )
