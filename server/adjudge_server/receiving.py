"""The interceptor between gRPC's bytes and the handlers: a request that cannot be parsed, or that
there is no room for, ends here.

gRPC's own parsing answers UNKNOWN and logs a traceback for what is no protobuf message; so messages
are parsed here instead, of every method of every service.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from adjudge.v1 import reward_pb2
from adjudge_server.errors import AdjudgeError, InvalidRequest
from adjudge_server.handling import Context, abort
from adjudge_server.open_bytes import OpenBytes, Share

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # generic for type checkers only

_SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name
_JUDGING = {
    f"/{_SERVICE}/{name}" for name in ("ScoreCandidates", "CompareCandidates", "CritiqueCandidates")
}
"""Methods whose requests are large. A full server still answers what it is, and how it is."""

_share: ContextVar[Share] = ContextVar("share")


def current_share() -> Share:
    """Of the request that this task answers. Raises LookupError outside of judging methods."""
    return _share.get()


class Receiver(grpc.aio.ServerInterceptor):
    """Aborts with INVALID_REQUEST, or with QUEUE_FULL before a large request is parsed."""

    def __init__(self, open_bytes: OpenBytes) -> None:
        self._open_bytes = open_bytes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        found = await continuation(handler_call_details)
        if found is None or found.request_deserializer is None:
            return found
        handler: Any = found
        open_bytes = self._open_bytes if handler_call_details.method in _JUDGING else None
        reading = _Reading(handler.request_deserializer, open_bytes)
        written = handler.response_serializer
        if handler.unary_unary:
            behavior = _one_for_one(handler.unary_unary, reading)
            return grpc.unary_unary_rpc_method_handler(behavior, response_serializer=written)
        if handler.unary_stream:
            behavior = _many_for_one(handler.unary_stream, reading)
            return grpc.unary_stream_rpc_method_handler(behavior, response_serializer=written)
        if handler.stream_stream:
            behavior = _many_for_many(handler.stream_stream, reading)
            return grpc.stream_stream_rpc_method_handler(behavior, response_serializer=written)
        raise NotImplementedError("a method that streams requests for one response")


@dataclass(frozen=True, slots=True)
class _Reading:
    parse: Callable[[bytes], Any]
    open_bytes: OpenBytes | None
    """None for methods whose requests count for nothing."""

    @asynccontextmanager
    async def request(self, received: bytes, context: Context) -> AsyncIterator[Any]:
        """The request, whose bytes count for as long as it is being answered."""
        try:
            share = self._opened(host(context), len(received))
        except AdjudgeError as error:
            await abort(context, error)
        with share:
            yield await self.message(received, context)

    def _opened(self, caller: str, num_bytes: int) -> AbstractContextManager[object]:
        if self.open_bytes is None:
            return nullcontext()
        share = self.open_bytes.open(caller, num_bytes)
        _share.set(share)  # for this task, which answers no other request
        return share

    async def message(self, received: bytes, context: Context) -> Any:
        try:
            return self.parse(received)
        except DecodeError:
            await abort(context, InvalidRequest("the request is no message of this method"))


def _one_for_one(behavior: Any, reading: _Reading) -> Any:
    async def answer(received: bytes, context: Context) -> Any:
        async with reading.request(received, context) as request:
            return await behavior(request, context)

    return answer


def _many_for_one(behavior: Any, reading: _Reading) -> Any:
    async def write(received: bytes, context: Context) -> None:
        async with reading.request(received, context) as request:
            await behavior(request, context)

    async def answer(received: bytes, context: Context) -> AsyncIterator[Any]:
        async with (
            reading.request(received, context) as request,
            aclosing(behavior(request, context)) as responses,
        ):
            async for response in responses:
                yield response

    # gRPC has two kinds of such handlers; those of the health service write for themselves.
    return answer if inspect.isasyncgenfunction(behavior) else write


def _many_for_many(behavior: Any, reading: _Reading) -> Any:
    async def answer(received: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        requests = (await reading.message(message, context) async for message in received)
        async with aclosing(behavior(requests, context)) as responses:
            async for response in responses:
                yield response

    return answer


def host(context: Context) -> str:
    """The host of the peer: its port changes with every connection."""
    peer: str = context.peer()
    return peer.rpartition(":")[0]
