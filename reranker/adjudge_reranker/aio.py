"""The client for asyncio; its twin, `client`, describes the methods in full."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import decode, encode
from adjudge_reranker.channel import DEFAULT_MAX_MESSAGE_BYTES, AsyncConnections
from adjudge_reranker.content import CandidateLike, PromptLike
from adjudge_reranker.decode_model import model_info
from adjudge_reranker.encode import Draft, RequestT
from adjudge_reranker.errors import ErrorReason, RewardError, error_from_rpc
from adjudge_reranker.model_info import ModelInfo
from adjudge_reranker.retry import (
    NOT_GIVEN,
    Budget,
    RetryPolicy,
    Timeout,
    checked_timeout,
    resolve_timeout,
    run_async,
)
from adjudge_reranker.types import CompareResult, CritiqueEvent, OrderPolicy, Readout, ScoreResult

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable as _Unary

    from adjudge.v1.reward_pb2_grpc import RewardServiceAsyncStub

AnyRequestT = TypeVar("AnyRequestT")
ResponseT = TypeVar("ResponseT", pb.ScoreCandidatesResponse, pb.CompareCandidatesResponse)
AnyResponseT = TypeVar("AnyResponseT")
_Messages: TypeAlias = AsyncIterator[pb.CritiqueCandidatesResponse]


class AsyncRewardClient:
    """Asks a server what its critic thinks of candidates, without blocking the event loop.

    async with AsyncRewardClient("127.0.0.1:50051") as client:
        result = await client.score("What is 2 + 2?", ["4", "5"])

    May be used from one event loop after another, or from several at once: it connects in each by
    itself. Safe to pickle. Cancelling a task cancels its call at the server. Arguments, values and
    errors are those of `RewardClient`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout: float | None = 60.0,
        retry: RetryPolicy | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """`timeout` is that of calls which give none; `max_message_bytes` holds both ways."""
        if timeout is not None:
            checked_timeout(timeout)
        self._address = address
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._max_message_bytes = max_message_bytes
        self._connections = AsyncConnections(address, max_message_bytes)

    async def score(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        expected_epoch: int | None = None,
        readout: Readout = Readout.DIRECT,
        include_distribution: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> ScoreResult:
        """How good is each candidate? One outcome each, in order."""
        draft = encode.score_draft(
            prompt,
            candidates,
            template=template,
            reference=reference,
            rubric=rubric,
            model=model,
            expected_epoch=expected_epoch,
            readout=readout,
            include_distribution=include_distribution,
        )
        response = await self._exchange(draft, lambda stub: stub.ScoreCandidates, timeout)
        return decode.score_result(response, len(draft.candidates))

    async def compare(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        pairs: Iterable[tuple[int, int]],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        expected_epoch: int | None = None,
        readout: Readout = Readout.DIRECT,
        order_policy: OrderPolicy = OrderPolicy.BOTH,
        timeout: Timeout = NOT_GIVEN,
    ) -> CompareResult:
        """Which candidate of each pair (two indices into `candidates`) is better, by how much?

        One outcome a pair, in order. Positive margins favour the first of the pair.
        """
        draft = encode.compare_draft(
            prompt,
            candidates,
            pairs,
            template=template,
            reference=reference,
            rubric=rubric,
            model=model,
            expected_epoch=expected_epoch,
            readout=readout,
            order_policy=order_policy,
        )
        response = await self._exchange(draft, lambda stub: stub.CompareCandidates, timeout)
        return decode.compare_result(response, len(draft.options.pairs))

    def critique(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        pairs: Iterable[tuple[int, int]] = (),
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        expected_epoch: int | None = None,
        max_critique_tokens: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncIterator[CritiqueEvent]:
        """What does the critic write about each candidate, or about each pair if there are any?

        The call is made when the first event is asked for, and cancelled when the iterator is
        closed. The timeout covers all of it, the caller's own work between events included.
        A failure after the first event is raised from the iterator and not retried.
        """
        draft = encode.critique_draft(
            prompt,
            candidates,
            pairs,
            template=template,
            reference=reference,
            rubric=rubric,
            model=model,
            expected_epoch=expected_epoch,
            max_critique_tokens=max_critique_tokens,
        )
        self._connections.get()  # a closed client says so here, not at the first event
        return self._events(draft, resolve_timeout(timeout, self._timeout))

    async def model(self, name: str | None = None, *, timeout: Timeout = NOT_GIVEN) -> ModelInfo:
        """Describes a model of the server: its identity, templates and limits."""
        request = encode.model_request(name)
        response = await self._call(request, lambda stub: stub.GetModel, self._budget(timeout))
        return model_info(response)

    async def close(self) -> None:
        """Ends the calls in progress and refuses new ones."""
        await self._connections.close()

    async def __aenter__(self) -> "AsyncRewardClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_connections"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connections = AsyncConnections(self._address, self._max_message_bytes)

    def _budget(self, timeout: Timeout) -> Budget:
        return Budget(resolve_timeout(timeout, self._timeout), self._retry)

    async def _call(
        self,
        request: AnyRequestT,
        method: "Callable[[RewardServiceAsyncStub], _Unary[AnyRequestT, AnyResponseT]]",
        budget: Budget,
    ) -> AnyResponseT:
        async def attempt(remaining: float | None) -> AnyResponseT:
            try:
                return await method(self._connections.get().stub)(request, timeout=remaining)
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error

        return await run_async(attempt, budget)

    async def _exchange(
        self,
        draft: Draft[RequestT],
        method: "Callable[[RewardServiceAsyncStub], _Unary[RequestT, ResponseT]]",
        timeout: Timeout,
    ) -> ResponseT:
        """Sends pictures by digest where the server should know them, and whole if it does not."""
        budget = self._budget(timeout)
        sent = self._connections.get().sent
        digests = draft.digests
        known = sent.known(digests)
        try:
            response = await self._call(draft.request(known), method, budget)
            retained = not (known and decode.lacks_pictures(response))
        except RewardError as error:
            if not known or error.reason != ErrorReason.UNKNOWN_IMAGE:
                raise
            retained = False
        if not retained:
            sent.forget(digests)
            response = await self._call(draft.request(), method, budget)
        sent.remember(digests)
        return response

    async def _events(
        self, draft: Draft[pb.CritiqueCandidatesRequest], timeout: float | None
    ) -> AsyncIterator[CritiqueEvent]:
        reader = decode.CritiqueReader(len(draft.options.pairs) or len(draft.candidates))
        # Pictures go whole: a critique takes seconds, and a digest that the server does not know
        # could turn up as the failure of one item in the middle of the stream.
        request = draft.request()
        messages, cancel = await run_async(
            lambda remaining: self._open(request, remaining), Budget(timeout, self._retry)
        )
        try:
            async for message in messages:
                event = reader.read(message)
                if event is not None:
                    yield event
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        finally:
            cancel()
        reader.finish()

    async def _open(
        self, request: pb.CritiqueCandidatesRequest, remaining: float | None
    ) -> tuple[_Messages, Callable[[], object]]:
        """The stream, once its first message is there, before which the call may be repeated; and
        what cancels it."""
        call = self._connections.get().stub.CritiqueCandidates(request, timeout=remaining)
        messages = aiter(call)
        try:
            first = await anext(messages, None)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return _chain(first, messages), call.cancel


async def _chain(first: pb.CritiqueCandidatesResponse | None, rest: _Messages) -> _Messages:
    if first is not None:
        yield first
    async for message in rest:
        yield message
