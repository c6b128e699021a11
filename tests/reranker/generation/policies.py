"""Policies and scorers that do as they are told."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from adjudge_reranker import Failure, Provenance, Reward, ScoreResult, ServerFault
from adjudge_reranker.generation import Finish, GenerationError, Sample

HERE = Provenance("model", "print", 1, "template", "hash")
Content = str | GenerationError


@dataclass
class Listed:
    """Gives these contents in order, `chunk_size` at a time."""

    contents: Sequence[Content]
    chunk_size: int = 1
    finish: Finish = Finish.COMPLETE
    before_each: Callable[[], None] = lambda: None
    """Called while a chunk is being generated."""
    was_closed: bool = False
    num_chunks: int = 0

    def keeping_pace(self, scorer: "Table") -> "Listed":
        """The same, generating each chunk until those before it are scored."""

        def wait() -> None:
            deadline = time.monotonic() + 20
            while len(scorer.calls) < self.num_chunks - 1 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)  # from the scorer's return until the caller can know

        self.before_each = wait
        return self

    def samples(self, prompt, order):
        contents = list(self.contents)
        try:
            while (wanted := order.num_wanted) and contents:
                indices = order.begin(min(self.chunk_size, wanted, len(contents)))
                self.num_chunks += 1
                self.before_each()
                if order.is_over:
                    continue
                yield [Sample(index, contents.pop(0), self.finish) for index in indices]
        finally:
            self.was_closed = True


@dataclass
class Timed:
    """Begins all at once; each content comes after so many seconds."""

    contents: Sequence[tuple[float, Content]]
    cancelled: list[int] = field(default_factory=list)

    async def samples(self, prompt, order):
        indices = order.begin(min(order.num_wanted, len(self.contents)))
        tasks = [asyncio.create_task(self._one(index)) for index in indices]
        try:
            for done in asyncio.as_completed(tasks):
                yield [await done]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, index: int) -> Sample[str]:
        seconds, content = self.contents[index]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        return Sample(index, content)


@dataclass
class Table:
    """Scores by a table; what is not in it fails. Serves blocking and other callers."""

    rewards: dict[str, float]
    provenance: Provenance | Callable[[int], Provenance] = HERE
    """Or a function of how many calls were made before."""
    calls: list[list[str]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def score(self, prompt, candidates, **options) -> ScoreResult:
        self.threads.add(threading.get_ident())
        provenance = self.provenance
        if callable(provenance):
            provenance = provenance(len(self.calls))
        self.calls.append(list(candidates))
        return ScoreResult(tuple(self._outcome(c) for c in candidates), provenance)

    def _outcome(self, candidate: str) -> Reward | Failure:
        if candidate in self.rewards:
            return Reward(self.rewards[candidate])
        return Failure(ServerFault(f"no reward for {candidate}"))

    @property
    def scored(self) -> list[str]:
        return [candidate for call in self.calls for candidate in call]


class AsyncTable(Table):
    async def score(self, prompt, candidates, **options) -> ScoreResult:
        await asyncio.sleep(0.001)
        return super().score(prompt, candidates, **options)
