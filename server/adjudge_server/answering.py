"""Stages 4 to 6 of a request, as far as they are alike whatever was asked: who reads it in which
epoch, what is recorded of it, and what its response says of how it came about."""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import queries, wire
from adjudge_server.accepted import Caller
from adjudge_server.ensembles import Ensemble
from adjudge_server.errors import (
    AdjudgeError,
    InputTooLong,
    UnsupportedOperation,
    WrongEpoch,
)
from adjudge_server.handling import Context
from adjudge_server.judge import Identity, Judge, Readings
from adjudge_server.models import Models
from adjudge_server.observing.audit import digests_of
from adjudge_server.observing.digests import text_digest
from adjudge_server.observing.exchange import READ, Item, current_exchange
from adjudge_server.queries import Asked
from adjudge_server.readout import Outcome
from adjudge_server.receiving import current_share
from adjudge_server.templates import Readout, Template

T = TypeVar("T")
LONG_TEXT = 65_536
"""Characters that take longer to digest than it takes to go to another thread and back."""


def judge_for(models: Models, request: wire.Request) -> Judge[Any]:
    """The critic that a request asks, in the epoch that it expects. Raises UnsupportedOperation for
    an ensemble."""
    found = models.find(request.model)
    if isinstance(found, Ensemble):
        raise UnsupportedOperation(
            f"{found.name} is an ensemble, which scores candidates and does nothing else: ask one"
            " of its critics",
            field="model",
        )
    check_epoch(request, found.identity)
    return found


def check_epoch(request: wire.Request, identity: Identity) -> None:
    """Raises WrongEpoch."""
    if request.HasField("expected_epoch") and request.expected_epoch != identity.epoch:
        raise WrongEpoch(
            f"the weights epoch is {identity.epoch}",
            field="expected_epoch",
            expected=request.expected_epoch,
            actual=identity.epoch,
        )


def check_readout(value: "pb.Readout.ValueType", template: Template) -> None:
    """Raises UnsupportedOperation where a template is not read directly, or is not to be."""
    if wire.READOUTS.get(value) is not Readout.DIRECT:
        raise UnsupportedOperation(
            "only CritiqueCandidates reads after a critique",
            field="readout",
            template=template.name,
        )
    if Readout.DIRECT not in template.readouts:
        raise UnsupportedOperation(
            f"{template.name} is only read after a critique, by CritiqueCandidates",
            field="readout",
            template=template.name,
        )


def count(
    asked: Asked, texts: Sequence[str | AdjudgeError], groups: Iterable[Sequence[int]]
) -> None:
    """What the request's queries will take counts as its own. Raises QueueFull, LimitExceeded."""
    current_share().add(queries.num_characters(asked, texts, groups))


def placed(
    items: Sequence[T | AdjudgeError], field: str, index: int | None = None
) -> list[T | AdjudgeError]:
    """The same, where an item that is too long says which of the request's items it is: the critic
    cannot know, and the query of a pair's order may serve several pairs."""
    return [
        item.within(f"{field}[{i if index is None else index}]")
        if isinstance(item, InputTooLong) and "field" not in item.metadata
        else item
        for i, item in enumerate(items)
    ]


def caller_of(context: Context, request: wire.Request | None = None) -> Caller:
    """A connection: its name is the peer's address and port."""
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Caller(context.peer(), deadline, size=0 if request is None else request.ByteSize())


async def read(
    models: Models,
    judge: Judge[Any],
    items: Sequence[Any],
    request: wire.Request,
    context: Context,
) -> tuple[Judge[Any], Readings]:
    """Readings of one epoch, and the judge of it: where the weights moved meanwhile, and the
    request does not mind, everything is asked again. What was prepared is good for both."""
    exchange = current_exchange()
    while True:
        try:
            with exchange.stage(READ):
                readings = await judge.read(items, caller_of(context, request))
            exchange.work = readings.work
            return judge, readings
        except WrongEpoch:
            if request.HasField("expected_epoch"):
                raise
        judge = judge_for(models, request)


async def record(
    judge: Judge[Any],
    identity: Identity,
    outcomes: Sequence[Outcome],
    texts: Sequence[Sequence[str] | None],
    written: str | None = None,
) -> None:
    """For whoever watches: what came of items, by their texts, and perhaps by a critique. `judge`
    lends its helpers off the loop."""
    exchange = current_exchange()
    digests: list[str | None] = [None] * len(outcomes)
    if exchange.is_audited:
        make = partial(digests_of, exchange.prompt_digest, texts)
        is_long = sum(len(text) for item in texts for text in item or ()) > LONG_TEXT
        digests = await judge.aside(make) if is_long else make()
    critique_digest = text_digest(written) if exchange.is_audited and written else None
    exchange.answered_by(identity)
    exchange.items += [
        Item(outcome, digest, critique_digest)
        for outcome, digest in zip(outcomes, digests, strict=True)
    ]


def provenance(
    identity: Identity, template: Template, members: Iterable[pb.MemberProvenance] = ()
) -> pb.Provenance:
    """At the end of a request."""
    exchange = current_exchange()
    work = exchange.work
    return pb.Provenance(
        model=identity.name,
        model_fingerprint=identity.fingerprint,
        weights_epoch=identity.epoch,
        template=template.name,
        template_hash=template.hash,
        total_duration=wire.write_duration(time.monotonic() - exchange.began),
        queue_duration=wire.write_duration(work.queue_seconds),
        inference_duration=wire.write_duration(work.inference_seconds),
        input_tokens=work.input_tokens,
        image_tokens=work.image_tokens,
        computed_tokens=work.computed_tokens,
        members=members,
    )
