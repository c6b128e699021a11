"""CritiqueCandidates, asked of a critic: one item after the other, each as it is written."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import queries, wire
from adjudge_server.answering import caller_of, count, judge_for, placed, provenance, record
from adjudge_server.asking import Asker
from adjudge_server.config import Config
from adjudge_server.critiques import Ended, Event, Verdict, critique
from adjudge_server.errors import AdjudgeError, UnsupportedOperation
from adjudge_server.handling import Context
from adjudge_server.judge import Judge, work_of
from adjudge_server.models import Models
from adjudge_server.observing.exchange import current_exchange
from adjudge_server.outcomes import critique_response, judged
from adjudge_server.queries import Asked
from adjudge_server.readout import Outcome
from adjudge_server.templates import Kind, Readout

Responses = AsyncGenerator[pb.CritiqueCandidatesResponse, None]


class Critiques:
    """Of one server: so many at a time, whoever writes them."""

    def __init__(self, config: Config, asker: Asker, models: Models) -> None:
        self._asker = asker
        self._models = models
        self.num_open = 0
        """That are being written."""
        self._writing = asyncio.Semaphore(config.max_open_critiques)

    async def write(self, request: pb.CritiqueCandidatesRequest, context: Context) -> Responses:
        """Close it if you leave it."""
        exchange = current_exchange()
        exchange.readout = Readout.AFTER_CRITIQUE
        judge = judge_for(self._models, request)
        max_tokens = self._asker.critique_tokens(request)
        kind = Kind.PAIRWISE if request.pairs else Kind.POINTWISE
        asked = await self._asker.ask(judge, request, kind, context)
        if Readout.AFTER_CRITIQUE not in asked.template.readouts:
            raise UnsupportedOperation(
                f"{asked.template.name} is not read after a critique", field="template"
            )
        texts = self._asker.texts(judge, request, asked)
        pairs = wire.read_pairs(request)
        groups = [[pair.first, pair.second] for pair in pairs]
        count(asked, texts, groups or [[i] for i in range(len(texts))])
        with exchange.stage("prepare"):
            items = await judge.prepare(
                await judge.aside(partial(self._asker.critique_queries, asked, texts, request))
            )
        for index, item in enumerate(placed(items, "pairs" if pairs else "candidates")):
            of_item = queries.texts_of(texts, pairs[index] if pairs else index)
            writing = self._one(judge, asked, index, item, of_item, max_tokens, context)
            async with aclosing(writing) as responses:
                async for response in responses:
                    yield response
        yield pb.CritiqueCandidatesResponse(provenance=provenance(judge.identity, asked.template))

    async def _one(
        self,
        judge: Judge[Any],
        asked: Asked,
        index: int,
        item: Any,
        texts: tuple[str, ...] | None,
        max_tokens: int,
        context: Context,
    ) -> Responses:
        exchange = current_exchange()
        if isinstance(item, AdjudgeError):
            await record(judge, judge.identity, [item], [texts])
            yield critique_response(index, item, asked.template)
            return
        exchange.work = exchange.work.with_(work_of([item]))
        events = critique(judge, asked.template, item, max_tokens, caller_of(context))
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
                    await record(judge, judge.identity, [told], [texts], written)
                yield critique_response(index, told, asked.template)

    @asynccontextmanager
    async def _written(self, events: AsyncGenerator[Event, None]) -> AsyncIterator[None]:
        """Each that is open holds keys and values, and takes a step between two batches."""
        async with self._writing, aclosing(events):
            self.num_open += 1
            try:
                with current_exchange().stage("critique"):
                    yield
            finally:
                self.num_open -= 1
