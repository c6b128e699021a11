"""The RPC handlers: each follows one request through its six stages.

1 the handler            protobuf request, read by `wire`
2 queries                → one Query per candidate or ordered pair; malformed ones end here
3 judge.prepare          → tokens and tiles, off the loop; too-long ones end here
4 judge.read → batcher   → the queue; a full one ends here
5 critic.forward         → log-probabilities, on the model's thread
6 readout                → reward or comparison → protobuf response
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1 import reward_pb2_grpc as pb_grpc
from adjudge_server import queries, wire
from adjudge_server.accepted import Caller
from adjudge_server.caches import CacheUse
from adjudge_server.config import Config
from adjudge_server.content import ImageReference, Pair, WireImage
from adjudge_server.critic import Query
from adjudge_server.critiques import Ended, Event, Verdict, critique
from adjudge_server.description import describe
from adjudge_server.errors import (
    AdjudgeError,
    InputTooLong,
    InvalidRequest,
    LimitExceeded,
    NotReady,
    UnknownModel,
    UnsupportedOperation,
    WrongEpoch,
)
from adjudge_server.handling import Context, abort, unary
from adjudge_server.image_store import ImageStore
from adjudge_server.images import Picture, decode
from adjudge_server.judge import Judge, Readings, work_of
from adjudge_server.observing.audit import digest_of_prompt, digests_of
from adjudge_server.observing.digests import text_digest
from adjudge_server.observing.exchange import READ, Item, current_exchange
from adjudge_server.outcomes import (
    compare_outcome,
    compared,
    critique_response,
    judged,
    score_outcome,
    scored,
)
from adjudge_server.queries import Asked
from adjudge_server.readout import Outcome
from adjudge_server.receiving import current_share, host
from adjudge_server.slow_readers import taken_within
from adjudge_server.templates import Kind, Readout, Template

T = TypeVar("T")
LONG_TEXT = 65_536
"""Characters that take longer to digest than it takes to go to another thread and back."""


class RewardService(pb_grpc.RewardServiceServicer):
    """Answers NOT_READY while `judge` is None. Another may take its place at any time."""

    def __init__(self, config: Config) -> None:
        self.judge: Judge[Any] | None = None
        self._config = config
        self._images = ImageStore(
            max_bytes=config.max_retained_bytes,
            max_total_bytes=config.max_retained_total_bytes,
            max_seconds=config.max_retained_seconds,
        )
        self.open_critiques = 0
        """That are being written."""
        self._writing = asyncio.Semaphore(config.max_open_critiques)
        self._limits = queries.Limits(config.max_images, config.max_candidates, config.max_pairs)
        self._decode = partial(
            decode,
            max_pixels=config.max_image_pixels,
            max_side=config.max_image_side,
            formats=config.image_formats,
            convert_rgb=config.convert_rgb,
            exif=config.exif,
        )

    @property
    def pictures(self) -> CacheUse:
        """Of those that are retained to be named. From any thread."""
        return self._images.use

    @unary
    async def ScoreCandidates(
        self, request: pb.ScoreCandidatesRequest, context: Context
    ) -> pb.ScoreCandidatesResponse:
        judge = self._judge_for(request)
        asked = await self._ask(judge, request, Kind.POINTWISE, context)
        _check_readout(request.readout, asked.template)
        texts = self._texts(judge, request, asked)
        _count(asked, texts, ([i] for i in range(len(texts))))
        with current_exchange().stage("prepare"):
            queried = await judge.aside(partial(queries.score_queries, asked, texts))
            items = _placed(await judge.prepare(queried), "candidates")
        judge, readings = await self._read(judge, items, request, context)
        outcomes = [scored(asked.template, reading) for reading in readings.items]
        await self._record(judge, outcomes, [queries.texts_of(texts, i) for i in range(len(texts))])
        return pb.ScoreCandidatesResponse(
            outcomes=[
                score_outcome(o, asked.template, distribution=request.include_distribution)
                for o in outcomes
            ],
            provenance=_provenance(judge, asked.template),
        )

    @unary
    async def CompareCandidates(
        self, request: pb.CompareCandidatesRequest, context: Context
    ) -> pb.CompareCandidatesResponse:
        judge = self._judge_for(request)
        asked = await self._ask(judge, request, Kind.PAIRWISE, context)
        _check_readout(request.readout, asked.template)
        texts = self._texts(judge, request, asked)
        pairs = queries.check_pairs(wire.read_pairs(request), texts, self._limits)
        if not pairs:
            raise InvalidRequest("there must be at least one pair", field="pairs")
        both = _both_orders(request.order_policy)
        # Each ordered pair once, so that (a, b) and (b, a) in one request share their readings.
        orders = dict.fromkeys(
            order for pair in pairs if isinstance(pair, Pair) for order in _orders(pair, both)
        )
        _count(asked, texts, ((order.first, order.second) for order in orders))
        with current_exchange().stage("prepare"):
            items = await judge.prepare(
                await judge.aside(lambda: [queries.pair_query(asked, texts, o) for o in orders])
            )
        judge, readings = await self._read(judge, items, request, context)
        found = dict(zip(orders, readings.items, strict=True))
        readings_of_pairs = [
            [pair]
            if isinstance(pair, AdjudgeError)
            else _placed([found[order] for order in _orders(pair, both)], "pairs", i)
            for i, pair in enumerate(pairs)
        ]
        outcomes = [
            compared(asked.template, of_pair, judge.noise_floor) for of_pair in readings_of_pairs
        ]
        current_exchange().orders = 2 if both else 1
        await self._record(judge, outcomes, [queries.texts_of(texts, pair) for pair in pairs])
        return pb.CompareCandidatesResponse(
            outcomes=[compare_outcome(outcome) for outcome in outcomes],
            provenance=_provenance(judge, asked.template),
        )

    async def CritiqueCandidates(
        self, request: pb.CritiqueCandidatesRequest, context: Context
    ) -> AsyncIterator[pb.CritiqueCandidatesResponse]:
        try:
            async with aclosing(self._critique(request, context)) as responses:
                async for response in responses:
                    with taken_within(self._config.write_seconds, context):
                        yield response
        except Exception as error:
            await abort(context, error)

    async def _critique(
        self, request: pb.CritiqueCandidatesRequest, context: Context
    ) -> AsyncGenerator[pb.CritiqueCandidatesResponse, None]:
        exchange = current_exchange()
        exchange.readout = Readout.AFTER_CRITIQUE
        judge = self._judge_for(request)
        max_tokens = self._critique_tokens(request)
        kind = Kind.PAIRWISE if request.pairs else Kind.POINTWISE
        asked = await self._ask(judge, request, kind, context)
        if Readout.AFTER_CRITIQUE not in asked.template.readouts:
            raise UnsupportedOperation(
                f"{asked.template.name} is not read after a critique", field="template"
            )
        texts = self._texts(judge, request, asked)
        pairs = wire.read_pairs(request)
        groups = [[pair.first, pair.second] for pair in pairs]
        _count(asked, texts, groups or [[i] for i in range(len(texts))])
        with exchange.stage("prepare"):
            items = await judge.prepare(
                await judge.aside(partial(self._critique_queries, asked, texts, pairs))
            )
        for index, item in enumerate(_placed(items, "pairs" if pairs else "candidates")):
            of_item = queries.texts_of(texts, pairs[index] if pairs else index)
            if isinstance(item, AdjudgeError):
                await self._record(judge, [item], [of_item])
                yield critique_response(index, item, asked.template)
                continue
            exchange.work = exchange.work.with_(work_of([item]))
            events = critique(judge, asked.template, item, max_tokens, _caller(context))
            written = ""
            async with self._written(events):
                async for event in events:
                    if isinstance(event, str):
                        written += event
                    elif isinstance(event, Verdict | Ended):
                        exchange.work = exchange.work.with_(event.work)
                    told = (
                        judged(asked.template, event.reading, judge.noise_floor)
                        if isinstance(event, Verdict)
                        else event
                    )
                    # Once for each: a critic may still fail after its verdict.
                    if isinstance(told, Outcome) and len(exchange.items) == index:
                        await self._record(judge, [told], [of_item], written)
                    yield critique_response(index, told, asked.template)
        yield pb.CritiqueCandidatesResponse(provenance=_provenance(judge, asked.template))

    @asynccontextmanager
    async def _written(self, events: AsyncGenerator[Event, None]) -> AsyncIterator[None]:
        """Each that is open holds keys and values, and takes a step between two batches."""
        async with self._writing, aclosing(events):
            self.open_critiques += 1
            try:
                with current_exchange().stage("critique"):
                    yield
            finally:
                self.open_critiques -= 1

    @unary
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        judge = self._judge_named(request.model)
        return pb.GetModelResponse(model=describe(judge, self._config))

    def _judge_named(self, model: str) -> Judge[Any]:
        if self.judge is None:
            raise NotReady("there are no weights at work")
        if model not in ("", self.judge.card.name):
            raise UnknownModel("no model of that name is served", field="model", model=model)
        return self.judge

    def _judge_for(self, request: wire.Request) -> Judge[Any]:
        judge = self._judge_named(request.model)
        if request.HasField("expected_epoch") and request.expected_epoch != judge.weights_epoch:
            raise WrongEpoch(
                f"the weights epoch is {judge.weights_epoch}",
                field="expected_epoch",
                expected=request.expected_epoch,
                actual=judge.weights_epoch,
            )
        return judge

    async def _read(
        self,
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
                    readings = await judge.read(items, _caller(context))
                exchange.work = readings.work
                return judge, readings
            except WrongEpoch:
                if request.HasField("expected_epoch"):
                    raise
            judge = self._judge_named(request.model)

    async def _record(
        self,
        judge: Judge[Any],
        outcomes: Sequence[Outcome],
        texts: Sequence[Sequence[str] | None],
        written: str | None = None,
    ) -> None:
        """For whoever watches: what came of items, by their texts, and perhaps by a critique."""
        exchange = current_exchange()
        digests: list[str | None] = [None] * len(outcomes)
        if exchange.is_audited:
            make = partial(digests_of, exchange.prompt_digest, texts)
            is_long = sum(len(text) for item in texts for text in item or ()) > LONG_TEXT
            digests = await judge.aside(make) if is_long else make()
        critique_digest = text_digest(written) if exchange.is_audited and written else None
        exchange.answered_by(judge)
        exchange.items += [
            Item(outcome, digest, critique_digest)
            for outcome, digest in zip(outcomes, digests, strict=True)
        ]

    async def _ask(
        self, judge: Judge[Any], request: wire.Request, kind: Kind, context: Context
    ) -> Asked:
        """Everything in the request but the candidates, pictures decoded; off the loop."""
        question = wire.read_question(request)
        reserve = current_share().add  # here: in a thread it would be another's
        read_picture = partial(self._picture, host(context), reserve)
        exchange = current_exchange()

        def ask() -> tuple[Asked, str | None]:
            asked = queries.ask(question, kind, judge.card, self._limits, read_picture)
            return asked, digest_of_prompt(question) if exchange.is_audited else None

        with exchange.stage("decode"):
            asked, exchange.prompt_digest = await judge.aside(ask)
        exchange.template = asked.template
        return asked

    def _texts(
        self, judge: Judge[Any], request: wire.Request, asked: Asked
    ) -> list[str | AdjudgeError]:
        candidates = wire.read_candidates(request)
        return queries.candidate_texts(candidates, asked.template, judge.card, self._limits)

    def _picture(self, caller: str, reserve: Callable[[int], None], image: WireImage) -> Picture:
        if isinstance(image, ImageReference):
            found = self._images.resolve(caller, image)
            return self._decode(found, reserve=reserve)
        picture = self._decode(image, reserve=reserve)
        self._images.resolve(caller, image)  # only what is a picture is worth retaining
        return picture

    def _critique_tokens(self, request: pb.CritiqueCandidatesRequest) -> int:
        maximum = self._config.max_critique_tokens
        if request.max_critique_tokens > maximum:
            raise LimitExceeded(
                f"a critique may have at most {maximum} tokens",
                field="max_critique_tokens",
                limit="max_critique_tokens",
                maximum=maximum,
                actual=request.max_critique_tokens,
            )
        return request.max_critique_tokens or maximum

    def _critique_queries(
        self, asked: Asked, texts: Sequence[str | AdjudgeError], pairs: Sequence[Pair]
    ) -> list[Query | AdjudgeError]:
        if not pairs:
            return queries.score_queries(asked, texts)
        return [
            pair if isinstance(pair, AdjudgeError) else queries.pair_query(asked, texts, pair)
            for pair in queries.check_pairs(pairs, texts, self._limits)
        ]


def _count(
    asked: Asked, texts: Sequence[str | AdjudgeError], groups: Iterable[Sequence[int]]
) -> None:
    """What the request's queries will take counts as its own. Raises QueueFull, LimitExceeded."""
    current_share().add(queries.num_characters(asked, texts, groups))


def _check_readout(value: "pb.Readout.ValueType", template: Template) -> None:
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


def _orders(pair: Pair, both: bool) -> list[Pair]:
    return [pair, Pair(pair.second, pair.first)] if both else [pair]


def _both_orders(policy: "pb.OrderPolicy.ValueType") -> bool:
    if policy not in pb.OrderPolicy.values():
        raise InvalidRequest("the order policy is not known", field="order_policy")
    return policy != pb.ORDER_POLICY_AS_GIVEN


def _placed(
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


def _caller(context: Context) -> Caller:
    """A connection: its name is the peer's address and port."""
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Caller(context.peer(), deadline)


def _provenance(judge: Judge[Any], template: Template) -> pb.Provenance:
    """At the end of a request."""
    exchange = current_exchange()
    work = exchange.work
    return pb.Provenance(
        model=judge.card.name,
        model_fingerprint=judge.card.fingerprint,
        weights_epoch=judge.weights_epoch,
        template=template.name,
        template_hash=template.hash,
        total_duration=wire.write_duration(time.monotonic() - exchange.began),
        queue_duration=wire.write_duration(work.queue_seconds),
        inference_duration=wire.write_duration(work.inference_seconds),
        input_tokens=work.input_tokens,
        image_tokens=work.image_tokens,
        computed_tokens=work.computed_tokens,
    )
