"""One critique as it is written, and the reading at its verdict.

Each token is one task on the model's thread, so that scoring batches run between two tokens.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from adjudge_server.critic import Prepared, Reading
from adjudge_server.errors import AdjudgeError, VerdictNotFound
from adjudge_server.judge import Judge, Work
from adjudge_server.templates import Template
from adjudge_server.verdict import locate

P = TypeVar("P", bound=Prepared)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reading at the verdict."""

    reading: Reading | AdjudgeError
    work: Work


@dataclass(frozen=True, slots=True)
class Ended:
    num_tokens: int
    truncated: bool


Event = str | Verdict | Ended | AdjudgeError


async def critique(
    judge: Judge[P], template: Template, item: P, max_tokens: int, deadline: float | None
) -> AsyncIterator[Event]:
    """Yields text as it is written, the Verdict once (VerdictNotFound in its place if the critique
    ends without one), and Ended last."""
    steps = judge.critic.critique(item, max_tokens)
    text = ""
    num_tokens = 0
    read = False
    while (written := await _on_model(judge, partial(next, steps, None))) is not None:
        num_tokens += 1
        text += written.text
        if written.text:
            yield written.text
        start = None if read else locate(template, text, ended=False)
        if start is not None:
            read = True
            yield await _verdict(judge, item, text[:start], deadline)
    if not read:
        start = locate(template, text, ended=True)
        if start is None:
            yield VerdictNotFound(f"no verdict in {num_tokens} tokens")
        else:
            yield await _verdict(judge, item, text[:start], deadline)
    yield Ended(num_tokens, truncated=num_tokens == max_tokens)


async def _verdict(judge: Judge[P], item: P, before: str, deadline: float | None) -> Event:
    try:
        there = await judge.aside(partial(judge.critic.after, item, before))
    except ValueError:  # the tokenizer merges what was written with the verdict's first token
        return VerdictNotFound("the verdict does not begin where a token begins")
    readings = await judge.read([there], deadline)
    return Verdict(readings.items[0], readings.work)


async def _on_model(judge: Judge[P], function: Callable[[], R]) -> R:
    return await asyncio.wrap_future(judge.batcher.call(function))
