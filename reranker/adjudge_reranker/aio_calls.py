"""How the asyncio client makes its calls; the twin, `calls`, says more about each step."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import decode
from adjudge_reranker.access import Access, Metadata
from adjudge_reranker.assembly import Assembly, Job
from adjudge_reranker.channel import AsyncConnection, AsyncConnections
from adjudge_reranker.decode_model import model_info
from adjudge_reranker.encode import Draft, RequestT, model_request
from adjudge_reranker.endpoints import affinity_key
from adjudge_reranker.errors import ErrorReason, RequestRefused, RewardError, error_from_rpc
from adjudge_reranker.model_info import Limits
from adjudge_reranker.one_model import OneModel
from adjudge_reranker.parts import Part, Question, ResponseT, ResultT, is_too_large
from adjudge_reranker.retry import Budget, RetryPolicy, run_async
from adjudge_reranker.servers import Servers
from adjudge_reranker.slots import AsyncSlots

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable as _Unary

    from adjudge.v1.reward_pb2_grpc import RewardServiceAsyncStub

AnyRequestT = TypeVar("AnyRequestT")
AnyResponseT = TypeVar("AnyResponseT")
T = TypeVar("T")
Messages: TypeAlias = AsyncIterator[pb.CritiqueCandidatesResponse]


class AsyncPool:
    """What one event loop holds for a client."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        access: Access,
        retry: RetryPolicy,
        max_message_bytes: int,
        max_in_flight: int,
    ) -> None:
        self.servers = Servers(
            addresses,
            retry,
            lambda target: AsyncConnection(
                target.address, max_message_bytes, access, host=target.host
            ),
        )
        self.slots = AsyncSlots(max_in_flight)
        self.limits: dict[str, Limits] = {}
        """By model, of those that refused a request for its size."""

    @asynccontextmanager
    async def server(self, key: bytes, budget: Budget) -> AsyncIterator[AsyncConnection]:
        """That of a call about `key`, which is in flight inside the block."""
        if looking := self.servers.refresh():
            waiting = asyncio.wrap_future(looking)
            try:
                await asyncio.wait([waiting], timeout=budget.remaining())
            finally:
                waiting.cancel()  # or it would be told the end after that of the loop
        for connection in self.servers.retired():
            await connection.close()
        async with self.slots.one(budget):
            with self.servers.one(key) as connection:
                yield connection

    async def close(self) -> None:
        for connection in self.servers.end():
            await connection.close()


class AsyncCalls:
    """Made with what `Connections` holds for the event loop that asks."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        access: Access,
        retry: RetryPolicy,
        max_message_bytes: int,
        max_in_flight: int,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self.one_model = OneModel()
        self._max_in_flight = max_in_flight
        self.pools = AsyncConnections(
            lambda: AsyncPool(
                addresses,
                access=access,
                retry=retry,
                max_message_bytes=max_message_bytes,
                max_in_flight=max_in_flight,
            )
        )

    async def call(
        self,
        request: AnyRequestT,
        method: "Callable[[RewardServiceAsyncStub], _Unary[AnyRequestT, AnyResponseT]]",
        budget: Budget,
        key: bytes = b"",
    ) -> AnyResponseT:
        """One call, repeated as `budget` allows."""
        return await self._repeated(
            lambda connection: _invoke(
                method(connection.stub), request, budget, connection.metadata()
            ),
            key,
            budget,
        )

    async def judge(
        self,
        draft: Draft[RequestT],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceAsyncStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        """The answer to the whole draft, in one call, or in several if the server takes no more.
        Raises ServerFault if another model gave it than earlier ones."""
        result = await self._judge(draft, question, method, budget)
        self.one_model.check(draft.options.model, result.provenance)
        return result

    async def _judge(
        self,
        draft: Draft[RequestT],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceAsyncStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        model: str = draft.options.model
        try:
            return await self._judge_within(
                self.pools.get().limits.get(model), draft, question, method, budget
            )
        except RequestRefused as refusal:
            if question.num_items(draft) < 2 or not is_too_large(refusal):
                raise
            # Not asked for before: few requests come near the limits, and a server that restarts
            # may have others.
            parts = question.split(
                draft, await self._limits(model, budget), self._max_message_bytes
            )
            if len(parts) < 2:
                raise
        return await self._judge_parts(parts, question, method, budget)

    async def open(
        self, request: pb.CritiqueCandidatesRequest, key: bytes, budget: Budget
    ) -> tuple[Messages, Callable[[], object]]:
        """A stream, once its first message is there, before which the call may be repeated; and
        what cancels it. Counts as in flight until its first message only: how long it stays open
        is up to the caller, who may well wait for another call meanwhile."""
        return await self._repeated(
            lambda connection: _opened(connection, request, budget), key, budget
        )

    async def _repeated(
        self,
        attempt: Callable[[AsyncConnection], Awaitable[T]],
        key: bytes,
        budget: Budget,
    ) -> T:
        async def at_an_endpoint(_: float | None) -> T:
            async with self.pools.get().server(key, budget) as connection:
                return await attempt(connection)

        return await run_async(
            at_an_endpoint,
            budget,
            elsewhere=self.pools.get().servers.elsewhere,
        )

    async def _exchange(
        self,
        draft: Draft[RequestT],
        method: "Callable[[RewardServiceAsyncStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResponseT:
        """Sends pictures by digest where the server should know them, and whole if it does not."""
        digests = draft.digests

        async def attempt(connection: AsyncConnection) -> ResponseT:
            rpc, sent = method(connection.stub), connection.sent
            known = sent.known(digests)
            try:
                response = await _invoke(rpc, draft.request(known), budget, connection.metadata())
                retained = not (known and decode.lacks_pictures(response))
            except RewardError as error:
                if not known or error.reason != ErrorReason.UNKNOWN_IMAGE:
                    raise
                retained = False
            if not retained:
                sent.forget(digests)
                response = await _invoke(rpc, draft.request(), budget, connection.metadata())
            sent.remember(digests)
            return response

        return await self._repeated(attempt, affinity_key(draft.prompt), budget)

    async def _judge_within(
        self,
        limits: Limits | None,
        draft: Draft[RequestT],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceAsyncStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        parts = question.split(draft, limits, self._max_message_bytes) if limits else []
        if len(parts) > 1:
            return await self._judge_parts(parts, question, method, budget)
        return question.decode(
            await self._exchange(draft, method, budget), question.num_items(draft)
        )

    async def _judge_parts(
        self,
        parts: Sequence[Part[RequestT]],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceAsyncStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        assembly: Assembly[RequestT, ResultT] = Assembly(parts)

        async def ask(job: Job[RequestT]) -> None:
            answer: ResultT | RewardError
            try:
                response = await self._exchange(job.draft, method, budget.part())
                answer = question.decode(response, job.num_items)
            except RewardError as error:
                answer = error
            assembly.put(job.index, answer)

        while jobs := assembly.jobs():
            async with asyncio.TaskGroup() as tasks:
                for job in jobs:
                    tasks.create_task(ask(job))
        if assembly.has_outgrown_limits:
            self.pools.get().limits.clear()
        return assembly.result()

    async def _limits(self, model: str, budget: Budget) -> Limits:
        response = await self.call(model_request(model), lambda stub: stub.GetModel, budget)
        limits = model_info(response).limits
        self.pools.get().limits[model] = limits
        return limits


async def _invoke(
    rpc: "_Unary[AnyRequestT, AnyResponseT]",
    request: AnyRequestT,
    budget: Budget,
    metadata: Metadata,
) -> AnyResponseT:
    try:
        return await rpc(request, timeout=budget.remaining(), metadata=metadata)
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


async def _opened(
    connection: AsyncConnection, request: pb.CritiqueCandidatesRequest, budget: Budget
) -> tuple[Messages, Callable[[], Any]]:
    call = connection.stub.CritiqueCandidates(
        request, timeout=budget.remaining(), metadata=connection.metadata()
    )
    messages = aiter(call)
    try:
        first = await anext(messages, None)
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error
    return _chain(first, messages), call.cancel


async def _chain(first: pb.CritiqueCandidatesResponse | None, rest: Messages) -> Messages:
    if first is not None:
        yield first
    async for message in rest:
        yield message
