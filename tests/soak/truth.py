"""What is right: each item put by itself to a critic of its own, which remembers nothing.

Neither the queue nor batches, caches or gRPC have a part in it. In a process of its own, so that
the load needs no torch.
"""

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from adjudge_server.config import Config
from adjudge_server.content import EncodedImage, Message, Role
from adjudge_server.content import Question as Content
from adjudge_server.critic import Query, Reading, Written
from adjudge_server.errors import AdjudgeError
from adjudge_server.images import decode
from adjudge_server.outcomes import compared, scored
from adjudge_server.queries import Limits, ask
from adjudge_server.templates import Kind, Template
from adjudge_server.verdict import Locator
from tests.soak.questions import Question, question

Number = float | str
"""Or the reason for which there is none."""


@dataclass(frozen=True, slots=True)
class Truth:
    rewards: tuple[Number, ...]
    """One a candidate, points."""
    margin: Number
    """Of the first two candidates, nats, both orders."""
    margin_as_given: Number
    critique: str | None = None
    """Of the first candidate; None where nobody asks for it."""
    verdict: Number | None = None
    """Points, at its end."""


def known(numbers: Sequence[int], critiqued: Iterable[int]) -> dict[int, Truth]:
    """The truth of each number."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(_known, list(numbers), set(critiqued)).result()


def _known(numbers: Sequence[int], critiqued: set[int]) -> dict[int, Truth]:
    from adjudge_server.loading import load_critic

    critic = load_critic(Config(max_prefix_bytes=0, max_feature_bytes=0))
    return {number: _truth(critic, question(number), number in critiqued) for number in numbers}


def _truth(critic: Any, asked: Question, is_critiqued: bool) -> Truth:
    scores = [_query(critic, asked, Kind.POINTWISE, candidate=c) for c in asked.candidates]
    first, second = asked.candidates[:2]
    one = _query(critic, asked, Kind.PAIRWISE, first=first, second=second)
    other = _query(critic, asked, Kind.PAIRWISE, first=second, second=first)
    orders = [_reading(critic, one), _reading(critic, other)]
    template = one.template
    rewards = tuple(_reward(q.template, _reading(critic, q)) for q in scores)
    text, verdict = _critique(critic, scores[0]) if is_critiqued else (None, None)
    return Truth(rewards, _margin(template, orders), _margin(template, orders[:1]), text, verdict)


def _query(critic: Any, asked: Question, kind: Kind, **candidates: str) -> Query:
    message = Message(Role.USER, (EncodedImage(asked.picture), asked.text))
    content = Content((message,), "")
    limits = Limits(max_images=1, max_candidates=1, max_pairs=1)
    read = ask(content, kind, critic.card, limits, lambda i: decode(i, max_pixels=10**6))  # type: ignore[arg-type]
    return read.query(candidates)


def _reading(critic: Any, query: Query) -> Reading | AdjudgeError:
    (item,) = critic.prepare([query])
    if isinstance(item, AdjudgeError):
        return item
    (reading,) = critic.forward([item])
    assert isinstance(reading, Reading)
    return reading


def _reward(template: Template, reading: Reading | AdjudgeError) -> Number:
    outcome = scored(template, reading)
    return outcome.reason if isinstance(outcome, AdjudgeError) else outcome.reward


def _margin(template: Template, readings: Sequence[Reading | AdjudgeError]) -> Number:
    outcome = compared(template, readings, 0.0)
    return outcome.reason if isinstance(outcome, AdjudgeError) else outcome.margin


def _critique(critic: Any, query: Query) -> tuple[str, Number]:
    (item,) = critic.prepare([query])
    locator, found = Locator(query.template), None
    written: list[Written] = []
    verdict: Number = "VERDICT_NOT_FOUND"
    for step in critic.critique(item, 64):
        written.append(step)
        if found is None and (found := locator.feed(step.text)):
            there = critic.after(item, list(written), found.start, found.opening)
            verdict = _reward(query.template, critic.forward([there])[0])
    return "".join(step.text for step in written), verdict
