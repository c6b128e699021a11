"""One forward pass: many requests at once, in the order that keeps the engine's memory warm.

vLLM computes what two prompts begin with only once if one of them is through when the other comes.
So of all prompts with the same picture, and of all those of one group, one goes first, and each
prompt itself goes before its answers. Equal prompts are asked once.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adjudge_server.accepted import error_like
from adjudge_server.answers import AnswerTree
from adjudge_server.critic import Reading
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.critics.vllm.asking import Asker
from adjudge_server.critics.vllm.engine import EngineRefusal
from adjudge_server.critics.vllm.rows import TreeRows
from adjudge_server.errors import AdjudgeError, NotReady, as_failure

logger = logging.getLogger(__name__)

Work = Coroutine[Any, Any, None]


@dataclass(slots=True, eq=False)
class _Prompt:
    """A prompt, for all places of the batch where it stands."""

    item: PreparedPrompt
    rows: TreeRows
    places: list[int] = field(default_factory=list)
    values: NDArray[np.float64] = field(init=False)
    """(reads,) log-probabilities, not numbers until they are read."""
    computed_tokens: int = 0
    failure: AdjudgeError | None = None

    def __post_init__(self) -> None:
        self.values = np.full(len(self.item.tree.reads), np.nan)

    def outcome(self) -> Reading | AdjudgeError:
        if self.failure is not None:
            return self.failure
        tree = self.item.tree
        with np.errstate(invalid="ignore"):  # what is not a number is refused by the readout
            return Reading(
                tree.opening_mass(self.values),
                tree.answer_log_probs(self.values),
                self.computed_tokens,
            )


class BatchReader:
    """Reads one batch, in the engine's loop."""

    def __init__(self, asker: Asker, rows_of: Callable[[AnswerTree], TreeRows]) -> None:
        self._asker = asker
        self._rows_of = rows_of
        self._away: NotReady | None = None
        """Once the engine is found to be away, nothing more of the batch is asked."""

    async def read(self, batch: Sequence[PreparedPrompt]) -> list[Reading | AdjudgeError]:
        """A reading, or why there is none, for each item in order."""
        prompts: dict[Any, _Prompt] = {}
        for place, item in enumerate(batch):
            key = (_pictures(item), item.token_ids, id(item.tree))
            if key not in prompts:
                prompts[key] = _Prompt(item, self._rows_of(item.tree))
            prompts[key].places.append(place)
        families = _grouped(prompts.values(), lambda p: _pictures(p.item) or p.item.group)
        await asyncio.gather(*map(self._family, families))
        outcomes = {place: p.outcome() for p in prompts.values() for place in p.places}
        return [outcomes[place] for place in range(len(batch))]

    async def _family(self, prompts: list[_Prompt]) -> None:
        """Of prompts with the same pictures."""
        (first, *others), *groups = _grouped(prompts, lambda p: p.item.group)
        later = [*map(self._whole, others), *map(self._group, groups)]
        await self._whole(first, then=later)

    async def _group(self, prompts: list[_Prompt]) -> None:
        first, *others = prompts
        await self._whole(first, then=[self._whole(other) for other in others])

    async def _whole(self, prompt: _Prompt, then: Sequence[Work] = ()) -> None:
        """Reads a prompt and its answers; what comes `then` starts once the prompt is through."""
        read: list[int] = []
        with _noting_failure(prompt):
            read = await self._row(prompt, 0)
        await asyncio.gather(self._answers(prompt, read), *then)

    async def _answers(self, prompt: _Prompt, read: Sequence[int]) -> None:
        with _noting_failure(prompt):
            await self._below(prompt, read)

    async def _below(self, prompt: _Prompt, read: Sequence[int]) -> None:
        """All rows below those."""

        async def one(row: int) -> None:
            await self._below(prompt, await self._row(prompt, row))

        await _all(one(row) for row in prompt.rows.next_rows(read))

    async def _row(self, prompt: _Prompt, row: int) -> list[int]:
        """Reads a row, and says which others came with it."""
        read: list[int] = []
        for walk in prompt.rows.walks(row):
            path = prompt.rows.path(row)
            try:
                answer = await self._asker.ask(prompt.item, path, walk, self._check_there)
            except NotReady as error:
                self._away = error
                raise
            prompt.computed_tokens += answer.computed_tokens
            read = prompt.rows.follow(walk, answer.steps, prompt.values)
        return read

    def _check_there(self) -> None:
        if self._away is not None:
            raise error_like(self._away)


@contextmanager
def _noting_failure(prompt: _Prompt) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, EngineRefusal):
            logger.warning("the engine refused a request with status %d", error.status)
        elif not isinstance(error, AdjudgeError):
            logger.exception("the engine could not be asked")
        prompt.failure = as_failure(error)


async def _all(work: Iterable[Work]) -> None:
    """All of it at once. Where one fails, the others are given up, and it raises."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _pictures(item: PreparedPrompt) -> tuple[str, ...]:
    return tuple(picture.digest for picture in item.pictures)


def _grouped(
    prompts: Iterable[_Prompt], key: Callable[[_Prompt], object]
) -> Iterator[list[_Prompt]]:
    groups: dict[object, list[_Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(key(prompt), []).append(prompt)
    yield from groups.values()
