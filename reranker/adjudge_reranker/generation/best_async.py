"""`generate_best_of_n`, for policies and scorers that do not block."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic

from adjudge_reranker.content import CandidateLike, PromptLike, to_prompt
from adjudge_reranker.errors import RewardError
from adjudge_reranker.generation.samples import AsyncPolicy, C, Sample
from adjudge_reranker.generation.selecting import Selecting
from adjudge_reranker.generation.selection import Selection
from adjudge_reranker.generation.stopping import StoppingRule
from adjudge_reranker.ranking import AsyncScorer
from adjudge_reranker.retry import NOT_GIVEN, Timeout
from adjudge_reranker.types import ScoreResult

Score = Callable[[Sequence[CandidateLike]], Awaitable[ScoreResult]]


async def async_generate_best_of_n(
    scorer: AsyncScorer,
    policy: AsyncPolicy[C],
    prompt: PromptLike,
    num_candidates: int,
    *,
    stopping: StoppingRule | None = None,
    good_enough: float | None = None,
    allow_truncated: bool = False,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> Selection[C]:
    """`generate_best_of_n`, which describes it in full. What the policy is still generating when
    the choice is made is cancelled; so is everything if this is cancelled."""
    messages = to_prompt(prompt)
    selecting: Selecting[C] = Selecting(
        num_candidates,
        stopping=stopping,
        good_enough=good_enough,
        allow_truncated=allow_truncated,
    )
    score = partial(
        scorer.score,
        messages,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    calls = _Calls(selecting, score)
    try:
        async with aclosing(policy.samples(messages, selecting)) as batches:
            while (samples := await calls.next_of(_next(batches))) is not None:
                calls.score(selecting.add(samples))
                if selecting.is_over:
                    break
        selecting.end()
        await calls.wait()
    finally:
        await calls.cancel()
    return selecting.selection()


class _Calls(Generic[C]):
    """The calls to the scorer that are under way."""

    def __init__(self, selecting: Selecting[C], score: Score) -> None:
        self._selecting = selecting
        self._score = score
        self._indices: dict[asyncio.Task[ScoreResult], list[int]] = {}

    def score(self, indices: list[int]) -> None:
        if indices:
            candidates = [self._selecting.candidate(index) for index in indices]
            self._indices[asyncio.create_task(self._ask(candidates))] = indices

    async def next_of(
        self, awaited: Coroutine[Any, Any, Sequence[Sample[C]] | None]
    ) -> Sequence[Sample[C]] | None:
        """What `awaited` gives; None if the choice is made before that, which cancels it."""
        coming = asyncio.create_task(awaited)
        try:
            while not self._selecting.is_over:
                await asyncio.wait({coming, *self._indices}, return_when=asyncio.FIRST_COMPLETED)
                self._collect()
                if coming.done():
                    return coming.result()
            return None
        finally:
            await _cancel([coming])

    async def wait(self) -> None:
        while self._indices:
            await asyncio.wait(self._indices, return_when=asyncio.FIRST_COMPLETED)
            self._collect()

    async def cancel(self) -> None:
        await _cancel(list(self._indices))

    def _collect(self) -> None:
        for call in [call for call in self._indices if call.done()]:
            result: ScoreResult | RewardError
            indices = self._indices.pop(call)
            try:
                result = call.result()
            except RewardError as error:
                result = error
            self.score(self._selecting.take(indices, result))

    async def _ask(self, candidates: Sequence[CandidateLike]) -> ScoreResult:
        return await self._score(candidates)


async def _next(batches: AsyncGenerator[Sequence[Sample[C]], None]) -> Sequence[Sample[C]] | None:
    # Not the built-in with a default, which is no coroutine and so no task that can be cancelled.
    try:
        return await anext(batches)
    except StopAsyncIteration:
        return None


async def _cancel(futures: "list[asyncio.Future[Any]] | list[asyncio.Task[Any]]") -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
