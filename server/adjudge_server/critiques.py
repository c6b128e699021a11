"""One critique as it is written, and the reading at its verdict.

Each token is one task on the model's thread, so that scoring batches run between two tokens.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from adjudge_server.critic import Prepared, Reading
from adjudge_server.errors import AdjudgeError, NotReady, VerdictNotFound, as_failure
from adjudge_server.judge import Judge, Work
from adjudge_server.templates import Template
from adjudge_server.verdict import locate

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=Prepared)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reading at the verdict."""

    reading: Reading
    work: Work
    """What the reading cost, beside the prompt's own tokens."""


@dataclass(frozen=True, slots=True)
class Ended:
    num_tokens: int
    truncated: bool
    work: Work
    """What the writing cost."""


Event = str | Verdict | Ended | AdjudgeError


async def critique(
    judge: Judge[P], template: Template, item: P, max_tokens: int, deadline: float | None
) -> AsyncGenerator[Event, None]:
    """Yields text as it is written, the Verdict once (an error in its place if it cannot be read),
    and Ended last. Close it if you leave it: it holds keys and values on the model's device."""
    steps = judge.critic.critique(item, max_tokens)
    try:
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
        yield Ended(
            num_tokens,
            truncated=num_tokens == max_tokens,
            work=Work(computed_tokens=item.shared_tokens + num_tokens),
        )
    except Exception as error:
        if not isinstance(error, AdjudgeError):
            logger.exception("the critic failed while it wrote a critique")
        yield as_failure(error)
    finally:
        with suppress(NotReady):
            judge.batcher.call(steps.close)


async def _verdict(judge: Judge[P], item: P, before: str, deadline: float | None) -> Event:
    try:
        there = await judge.aside(partial(judge.critic.after, item, before))
    except ValueError:  # the tokenizer merges what was written with the verdict's first token
        return VerdictNotFound("the verdict does not begin where a token begins")
    readings = await judge.read([there], deadline)
    (reading,) = readings.items
    if isinstance(reading, AdjudgeError):
        return reading
    return Verdict(reading, replace(readings.work, input_tokens=0, image_tokens=0))


async def _on_model(judge: Judge[P], function: Callable[[], R]) -> R:
    return await asyncio.wrap_future(judge.batcher.call(function))
