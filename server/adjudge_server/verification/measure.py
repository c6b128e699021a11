"""What is measured of a critic. Every function asks it directly, on the caller's thread."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from adjudge_server import readout
from adjudge_server.critic import Critic, Query, Reading, Written
from adjudge_server.critiques import at_the_end, room_for_critique
from adjudge_server.errors import AdjudgeError, VerdictNotFound
from adjudge_server.templates import Answer, Kind, Template
from adjudge_server.verdict import Locator
from adjudge_server.verification import questions

ROUNDS = 3
FEW = 8
"""Wordings of a verdict that are told one by one."""


@dataclass(frozen=True, slots=True)
class Critique:
    """What the critic wrote about one query, and what was read at its verdict."""

    text: str
    num_tokens: int
    reading: Reading | AdjudgeError


@dataclass(frozen=True, slots=True)
class Form:
    """A way to begin, and how probable it is as the critic's first words."""

    text: str
    """As a literal."""
    log_probability: float
    """Nats."""


def readings(critic: Critic[Any], queries: Sequence[Query]) -> list[Reading]:
    """In one batch. Raises InputTooLong where the critic cannot take one."""
    return critic.forward(prepared(critic, queries))


def prepared(critic: Critic[Any], queries: Sequence[Query]) -> list[Any]:
    items = critic.prepare(queries)
    for item in items:
        if isinstance(item, AdjudgeError):
            raise item
    return items


def critique(critic: Critic[Any], query: Query, max_tokens: int) -> Critique:
    """Has it written out, and reads at the verdict."""
    (item,) = prepared(critic, [query])
    max_tokens = min(max_tokens, room_for_critique(critic.card, item))
    written: list[Written] = list(critic.critique(item, max_tokens))
    text = "".join(piece.text for piece in written)
    locator = Locator(query.template)
    located = locator.feed(text) or at_the_end(
        query.template, locator, len(written), len(written) == max_tokens
    )
    reading: Reading | AdjudgeError
    if isinstance(located, VerdictNotFound):
        reading = located
    else:
        try:
            there = critic.after(item, written, located.start, located.opening)
            (reading,) = critic.forward([there])
        except AdjudgeError as error:
            reading = error
        except ValueError as error:
            reading = VerdictNotFound(str(error))
    return Critique(text, len(written), reading)


def reward(template: Template, reading: Reading | AdjudgeError) -> float | AdjudgeError:
    """The reward or, of a pairwise template, the margin of the order asked."""
    if isinstance(reading, AdjudgeError):
        return reading
    try:
        if template.kind is Kind.POINTWISE:
            return readout.reward(template, reading).reward
        return readout.comparison(template, [reading], 0.0).margin
    except AdjudgeError as error:
        return error


def forms(critic: Critic[Any], template: Template) -> list[Form]:
    """The ways in which a verdict of this template may begin, the most probable first.

    Each of its openings; where a verdict has none, each of its wordings, or all of them together
    where they are many.
    """
    (item,) = prepared(critic, [_first_query(critic, template)])
    found = []
    for opening in template.openings:
        if opening:
            (reading,) = critic.forward([critic.after(item, (), 0, opening)])
            found.append(Form(repr(opening), reading.opening_mass))
        else:
            found += _wordings(critic, item, template)
    return sorted(found, key=lambda form: -form.log_probability)


def _wordings(critic: Critic[Any], item: Any, template: Template) -> list[Form]:
    texts = sorted({form for answer in template.answers for form in answer.forms})
    apart = replace(template, answers=tuple(Answer(text, (text,)) for text in texts))
    (reading,) = critic.forward([critic.after(replace(item, template=apart), (), 0, "")])
    values = reading.answer_log_probs
    if len(texts) > FEW:
        together = float(np.logaddexp.reduce(values))
        return [Form(f"any of {len(texts)}, such as {texts[0]!r}", together)]
    return [Form(repr(t), value) for t, value in zip(texts, values.tolist(), strict=True)]


def _first_query(critic: Critic[Any], template: Template) -> Query:
    known = questions.known(critic.card)
    if template.kind is Kind.POINTWISE:
        return questions.score_queries(critic.card, template, [known.right])[0]
    pair = (known.right, known.wrong)
    return questions.pair_queries(critic.card, template, [pair])[0]


def company(critic: Critic[Any], queries: Sequence[Query]) -> float:
    """Nats: the largest change of any answer's log-probability between batches of one, of all, of
    all in reverse, and of every third. Each afresh: what batches take from one memory cannot differ
    in it."""

    def afresh(chosen: Sequence[Query]) -> list[Reading]:
        critic.forget()
        return readings(critic, chosen)

    alone = [afresh([query])[0] for query in queries]
    worst: list[float] = []
    for chosen in (range(len(queries)), range(len(queries))[::-1], range(0, len(queries), 3)):
        together = afresh([queries[i] for i in chosen])
        for index, reading in zip(chosen, together, strict=True):
            difference = np.abs(reading.numbers - alone[index].numbers)
            worst.append(float(difference.max()))
    return float(np.max(worst))  # which a NaN survives, unlike Python's max


def seconds_per_candidate(critic: Critic[Any], template: Template, count: int) -> float:
    """Median of a few rounds, preparation included, for one new prompt with `count` candidates."""
    answers = [f"{questions.known(critic.card).right} Candidate {i}." for i in range(count)]
    durations = []
    for _ in range(ROUNDS):
        critic.forget()
        began = time.perf_counter()
        readings(critic, questions.score_queries(critic.card, template, answers))
        durations.append(time.perf_counter() - began)
    return median(durations) / count
