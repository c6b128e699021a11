"""ScoreCandidates, asked of a critic or of an ensemble of critics."""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, TypeVar

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import queries, wire
from adjudge_server.answering import (
    caller_of,
    check_epoch,
    check_readout,
    count,
    placed,
    provenance,
    read,
    record,
)
from adjudge_server.asking import Asker, Texts
from adjudge_server.ensembles import Ensemble, of_member
from adjudge_server.errors import AdjudgeError, WrongEpoch
from adjudge_server.handling import Context
from adjudge_server.judge import Judge, Readings
from adjudge_server.models import Models
from adjudge_server.observing.exchange import READ, current_exchange
from adjudge_server.outcomes import score_outcome, scored
from adjudge_server.queries import Asked
from adjudge_server.readout import Reward
from adjudge_server.templates import Kind

R = TypeVar("R")


async def score(
    asker: Asker,
    models: Models,
    judge: Judge[Any],
    request: pb.ScoreCandidatesRequest,
    context: Context,
) -> pb.ScoreCandidatesResponse:
    """By one critic."""
    check_epoch(request, judge.identity)
    judge.batcher.check_room(caller_of(context, request))
    asked = await asker.ask(judge, request, Kind.POINTWISE, context)
    check_readout(request.readout, asked.template)
    texts = asker.texts(judge, request, asked)
    count(asked, texts, ([i] for i in range(len(texts))))
    with current_exchange().stage("prepare"):
        items = await _prepared(judge, asked, texts)
    judge, readings = await read(models, judge, items, request, context)
    outcomes = [scored(asked.template, reading) for reading in readings.items]
    await record(judge, judge.identity, outcomes, _items(texts))
    return pb.ScoreCandidatesResponse(
        outcomes=[
            score_outcome(o, asked.template, distribution=request.include_distribution)
            for o in outcomes
        ],
        provenance=provenance(judge.identity, asked.template),
    )


async def score_together(
    asker: Asker,
    models: Models,
    ensemble: Ensemble,
    request: pb.ScoreCandidatesRequest,
    context: Context,
) -> pb.ScoreCandidatesResponse:
    """By all members of an ensemble, each on its own thread. What fails a member as a whole fails
    the call, and the others are asked no further."""
    judges = models.judges(ensemble)
    check_epoch(request, ensemble.identity(judges))
    _check_room(judges, request, context)
    asked = await asker.ask_members(ensemble, judges, request, context)
    check_readout(request.readout, ensemble.template)
    texts = [asker.texts(judge, request, a) for judge, a in zip(judges, asked, strict=True)]
    for of_judge, a in zip(texts, asked, strict=True):
        count(a, of_judge, ([i] for i in range(len(of_judge))))
    with current_exchange().stage("prepare"):
        works = [_prepared(*given) for given in zip(judges, asked, texts, strict=True)]
        items = await _all(works, ensemble)
    judges, readings = await _read_together(models, ensemble, items, request, context)
    outcomes = _combined(ensemble, asked, readings, request)
    identity = ensemble.identity(judges)
    await record(judges[0], identity, outcomes, _items(texts[0]))
    members = [_member(judge, a) for judge, a in zip(judges, asked, strict=True)]
    return pb.ScoreCandidatesResponse(
        outcomes=[
            score_outcome(
                outcome,
                ensemble.template,
                distribution=request.include_distribution,
                members=ensemble.templates,
            )
            for outcome in outcomes
        ],
        provenance=provenance(identity, ensemble.template, members),
    )


async def _prepared(judge: Judge[Any], asked: Asked, texts: Texts) -> list[Any]:
    queried = await judge.aside(partial(queries.score_queries, asked, texts))
    return placed(await judge.prepare(queried), "candidates")


def _check_room(judges: Sequence[Judge[Any]], request: wire.Request, context: Context) -> None:
    """Raises QueueFull where a member's queue is about to be."""
    for judge in judges:
        try:
            judge.batcher.check_room(caller_of(context, request))
        except AdjudgeError as error:
            raise of_member(error, judge.card.name) from error


async def _read_together(
    models: Models,
    ensemble: Ensemble,
    items: Sequence[Sequence[Any]],
    request: wire.Request,
    context: Context,
) -> tuple[list[Judge[Any]], list[Readings]]:
    """The readings of all members in one epoch of the ensemble, and the judges of it. Where the
    weights of one moved meanwhile, and the request does not mind, those whose judge is another by
    then are asked again."""
    exchange = current_exchange()
    done: dict[int, tuple[Judge[Any], Readings]] = {}

    async def ask(index: int, judge: Judge[Any]) -> None:
        if index not in done or done[index][0] is not judge:
            done[index] = judge, await judge.read(items[index], caller_of(context, request))

    while True:
        judges = models.judges(ensemble)
        check_epoch(request, ensemble.identity(judges))
        try:
            with exchange.stage(READ):
                await _all([ask(i, judge) for i, judge in enumerate(judges)], ensemble)
        except WrongEpoch:
            continue
        readings = [done[index][1] for index in range(len(judges))]
        for of_member_ in readings:
            exchange.work = exchange.work.with_(of_member_.work)
        return judges, readings


async def _all(works: Sequence[Awaitable[R]], ensemble: Ensemble) -> list[R]:
    """What all members' works give, in their order. The first that fails ends the others, and so
    does whoever stops waiting."""
    tasks = [
        asyncio.ensure_future(_blaming(work, member.critic))
        for work, member in zip(works, ensemble.members, strict=True)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _blaming(work: Awaitable[R], critic: str) -> R:
    try:
        return await work
    except AdjudgeError as error:
        raise of_member(error, critic) from error


def _combined(
    ensemble: Ensemble,
    asked: Sequence[Asked],
    readings: Sequence[Readings],
    request: pb.ScoreCandidatesRequest,
) -> list[Reward | AdjudgeError]:
    """One outcome per candidate. Who is malformed is so by no member's fault."""
    by_member = [
        [scored(a.template, reading) for reading in of_member_.items]
        for a, of_member_ in zip(asked, readings, strict=True)
    ]
    return [
        candidate if isinstance(candidate, AdjudgeError) else ensemble.reward(outcomes)
        for candidate, outcomes in zip(
            wire.read_candidates(request), zip(*by_member, strict=True), strict=True
        )
    ]


def _items(texts: Texts) -> list[tuple[str, ...] | None]:
    return [queries.texts_of(texts, index) for index in range(len(texts))]


def _member(judge: Judge[Any], asked: Asked) -> pb.MemberProvenance:
    return pb.MemberProvenance(
        model=judge.card.name,
        model_fingerprint=judge.card.fingerprint,
        weights_epoch=judge.weights_epoch,
        template=asked.template.name,
        template_hash=asked.template.hash,
    )
