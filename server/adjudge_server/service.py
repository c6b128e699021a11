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
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1 import reward_pb2_grpc as pb_grpc
from adjudge_server import queries, readout, wire
from adjudge_server.batcher import Caller
from adjudge_server.config import Config
from adjudge_server.content import ImageReference, Pair, WireImage
from adjudge_server.critic import Query, Reading
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
from adjudge_server.judge import Judge, Readings, Work, work_of
from adjudge_server.queries import Asked
from adjudge_server.templates import Kind, Readout, Template

T = TypeVar("T")


class RewardService(pb_grpc.RewardServiceServicer):
    """Answers NOT_READY while `judge` is None. Another may take its place at any time."""

    def __init__(self, config: Config) -> None:
        self.judge: Judge[Any] | None = None
        self._config = config
        self._images = ImageStore(
            max_bytes=config.max_retained_bytes, max_seconds=config.max_retained_seconds
        )
        self._writing = asyncio.Semaphore(config.max_open_critiques)
        self._limits = queries.Limits(config.max_images, config.max_candidates, config.max_pairs)
        self._decode = partial(
            decode,
            max_pixels=config.max_image_pixels,
            convert_rgb=config.convert_rgb,
            exif=config.exif,
        )

    @unary
    async def ScoreCandidates(
        self, request: pb.ScoreCandidatesRequest, context: Context
    ) -> pb.ScoreCandidatesResponse:
        arrived = time.monotonic()
        judge = self._judge_for(request)
        asked = await self._ask(judge, request, Kind.POINTWISE, context)
        _check_readout(request.readout, asked.template)
        texts = self._texts(judge, request, asked)
        items = await judge.prepare(await judge.aside(partial(queries.score_queries, asked, texts)))
        items = _placed(items, "candidates")
        judge, readings = await self._read(judge, items, request, context)
        return pb.ScoreCandidatesResponse(
            outcomes=[
                _score_outcome(asked.template, reading, request.include_distribution)
                for reading in readings.items
            ],
            provenance=_provenance(judge, asked.template, readings.work, arrived),
        )

    @unary
    async def CompareCandidates(
        self, request: pb.CompareCandidatesRequest, context: Context
    ) -> pb.CompareCandidatesResponse:
        arrived = time.monotonic()
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
        return pb.CompareCandidatesResponse(
            outcomes=[
                _compare_outcome(asked.template, of_pair, judge.noise_floor)
                for of_pair in readings_of_pairs
            ],
            provenance=_provenance(judge, asked.template, readings.work, arrived),
        )

    async def CritiqueCandidates(
        self, request: pb.CritiqueCandidatesRequest, context: Context
    ) -> AsyncIterator[pb.CritiqueCandidatesResponse]:
        try:
            async with aclosing(self._critique(request, context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:
            await abort(context, error)

    async def _critique(
        self, request: pb.CritiqueCandidatesRequest, context: Context
    ) -> AsyncGenerator[pb.CritiqueCandidatesResponse, None]:
        arrived = time.monotonic()
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
        items = await judge.prepare(
            await judge.aside(partial(self._critique_queries, asked, texts, pairs))
        )
        work = Work()
        for index, item in enumerate(_placed(items, "pairs" if pairs else "candidates")):
            if isinstance(item, AdjudgeError):
                yield pb.CritiqueCandidatesResponse(index=index, error=wire.write_error(item))
                continue
            work = work.with_(work_of([item]))
            events = critique(judge, asked.template, item, max_tokens, _caller(context))
            # Each that is open holds keys and values, and takes a step between two batches.
            async with self._writing, aclosing(events):
                async for event in events:
                    if isinstance(event, Verdict | Ended):
                        work = work.with_(event.work)
                    yield _critique_response(index, event, asked.template, judge.noise_floor)
        yield pb.CritiqueCandidatesResponse(
            provenance=_provenance(judge, asked.template, work, arrived)
        )

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
        while True:
            try:
                return judge, await judge.read(items, _caller(context))
            except WrongEpoch:
                if request.HasField("expected_epoch"):
                    raise
            judge = self._judge_named(request.model)

    async def _ask(
        self, judge: Judge[Any], request: wire.Request, kind: Kind, context: Context
    ) -> Asked:
        """Everything in the request but the candidates, pictures decoded; off the loop."""
        question = wire.read_question(request)
        read_picture = partial(self._picture, _host(context))
        return await judge.aside(
            partial(queries.ask, question, kind, judge.card, self._limits, read_picture)
        )

    def _texts(
        self, judge: Judge[Any], request: wire.Request, asked: Asked
    ) -> list[str | AdjudgeError]:
        candidates = wire.read_candidates(request)
        return queries.candidate_texts(candidates, asked.template, judge.card, self._limits)

    def _picture(self, caller: str, image: WireImage) -> Picture:
        if isinstance(image, ImageReference):
            found = self._images.resolve(caller, image)
            return self._decode(found)
        picture = self._decode(image)
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


def _host(context: Context) -> str:
    """The host of the peer: its port changes with every connection."""
    return context.peer().rpartition(":")[0]


def _score_outcome(
    template: Template, reading: Reading | AdjudgeError, distribution: bool
) -> pb.ScoreOutcome:
    try:
        if isinstance(reading, AdjudgeError):
            raise reading
        reward = readout.reward(template, reading)
    except AdjudgeError as error:
        return pb.ScoreOutcome(error=wire.write_error(error))
    return pb.ScoreOutcome(reward=wire.write_reward(reward, template, distribution=distribution))


def _compare_outcome(
    template: Template, readings: Sequence[Reading | AdjudgeError], noise_floor: float
) -> pb.CompareOutcome:
    sound: list[Reading] = []
    try:
        for reading in readings:
            if isinstance(reading, AdjudgeError):
                raise reading
            sound.append(reading)
        comparison = readout.comparison(template, sound, noise_floor)
    except AdjudgeError as error:
        return pb.CompareOutcome(error=wire.write_error(error))
    return pb.CompareOutcome(comparison=wire.write_comparison(comparison))


def _critique_response(
    index: int, event: Event, template: Template, noise_floor: float
) -> pb.CritiqueCandidatesResponse:
    if isinstance(event, str):
        return pb.CritiqueCandidatesResponse(index=index, text=event)
    if isinstance(event, Ended):
        reason = pb.END_REASON_LENGTH if event.truncated else pb.END_REASON_COMPLETE
        end = pb.CritiqueEnd(reason=reason, num_tokens=event.num_tokens)
        return pb.CritiqueCandidatesResponse(index=index, end=end)
    if isinstance(event, AdjudgeError):
        return pb.CritiqueCandidatesResponse(index=index, error=wire.write_error(event))
    if template.kind is Kind.POINTWISE:
        scored = _score_outcome(template, event.reading, False)
        return pb.CritiqueCandidatesResponse(
            index=index,
            reward=scored.reward if scored.HasField("reward") else None,
            error=scored.error if scored.HasField("error") else None,
        )
    compared = _compare_outcome(template, [event.reading], noise_floor)
    return pb.CritiqueCandidatesResponse(
        index=index,
        comparison=compared.comparison if compared.HasField("comparison") else None,
        error=compared.error if compared.HasField("error") else None,
    )


def _provenance(judge: Judge[Any], template: Template, work: Work, arrived: float) -> pb.Provenance:
    return pb.Provenance(
        model=judge.card.name,
        model_fingerprint=judge.card.fingerprint,
        weights_epoch=judge.weights_epoch,
        template=template.name,
        template_hash=template.hash,
        total_duration=wire.write_duration(time.monotonic() - arrived),
        queue_duration=wire.write_duration(work.queue_seconds),
        inference_duration=wire.write_duration(work.inference_seconds),
        input_tokens=work.input_tokens,
        image_tokens=work.image_tokens,
        computed_tokens=work.computed_tokens,
    )
