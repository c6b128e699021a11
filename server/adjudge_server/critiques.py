"""One critique as it is written, and the reading at its verdict.

Each token is one task on the model's thread, so that scoring batches run between two tokens.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from adjudge_server.accepted import Caller
from adjudge_server.critic import CriticCard, Prepared, Reading, Written
from adjudge_server.errors import (
    AdjudgeError,
    InputTooLong,
    NotReady,
    VerdictNotFound,
    as_failure,
)
from adjudge_server.judge import Judge, Work
from adjudge_server.templates import Template, VerdictPlace
from adjudge_server.verdict import Located, Locator

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
    judge: Judge[P],
    template: Template,
    item: P,
    max_tokens: int,
    caller: Caller,
) -> AsyncGenerator[Event, None]:
    """Yields text as it is written, the Verdict once (an error in its place if it cannot be read),
    and Ended last. Raises NotReady. Close it if you leave it: it holds keys and values on the
    model's device."""
    max_tokens = min(max_tokens, room_for_critique(judge.card, item))
    if max_tokens < 1:
        yield InputTooLong("it leaves no room for a critique", maximum=judge.card.max_input_tokens)
        return
    steps = judge.critic.critique(item, max_tokens)
    try:
        locator = Locator(template)
        written: list[Written] = []
        found = None
        while (step := await _on_model(judge, partial(next, steps, None))) is not None:
            written.append(step)
            if step.text:
                yield step.text
            if found is None and (found := locator.feed(step.text)):
                yield await _verdict(judge, item, written, found, caller)
        truncated = len(written) == max_tokens
        if found is None:
            ending = at_the_end(template, locator, len(written), truncated)
            if isinstance(ending, Located):
                yield await _verdict(judge, item, written, ending, caller)
            else:
                yield ending
        yield Ended(
            len(written),
            truncated=truncated,
            work=Work(computed_tokens=item.shared_tokens + len(written)),
        )
    except NotReady:  # nor is there a model for the next item
        raise
    except Exception as error:
        if not isinstance(error, AdjudgeError):
            logger.exception("the critic failed while it wrote a critique")
        if isinstance(error, MemoryError):
            judge.batcher.release(judge.critic.forget)  # so that there is room for the next
        yield as_failure(error)
    finally:
        judge.batcher.release(steps.close)


def room_for_critique(card: CriticCard, item: Prepared) -> int:
    """Tokens that a critique of the item may have, so that its verdict can still be read."""
    return card.max_input_tokens - item.shared_tokens - item.own_tokens


def at_the_end(
    template: Template, locator: Locator, num_tokens: int, truncated: bool
) -> Located | VerdictNotFound:
    """The verdict of a critique that is over, or why there is none."""
    found = locator.end()
    if truncated and template.verdict is VerdictPlace.LAST:
        found = None  # who knows what the critic would have come to
    if found is not None:
        return found
    if truncated:
        return VerdictNotFound(f"cut off after {num_tokens} tokens, before the verdict")
    return VerdictNotFound(f"no verdict in {num_tokens} tokens")


async def _verdict(
    judge: Judge[P],
    item: P,
    written: Sequence[Written],
    found: Located,
    caller: Caller,
) -> Event:
    after = partial(judge.critic.after, item, written, found.start, found.opening)
    try:
        there = await judge.aside(after)
    except ValueError:  # the tokenizer merges what was written with the verdict's first token
        return VerdictNotFound("the verdict does not begin where a token begins")
    readings = await judge.read([there], caller)
    (reading,) = readings.items
    if isinstance(reading, AdjudgeError):
        return reading
    return Verdict(reading, replace(readings.work, input_tokens=0, image_tokens=0))


async def _on_model(judge: Judge[P], function: Callable[[], R]) -> R:
    """Raises WrongEpoch once the weights have moved: what was written so far is of the old ones."""
    return await asyncio.wrap_future(judge.batcher.call(function, judge.weights_epoch))
