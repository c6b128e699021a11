"""The outermost interceptor: it keeps a record of each request, and gives it to whoever watches
when the request is over, also of those that other interceptors turn away.

Only the methods of Adjudge's own services: health checks and reflection are nobody's judgements.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio

from adjudge.v1 import admin_pb2, reward_pb2
from adjudge_server.observing.exchange import OK, Exchange, begin
from adjudge_server.observing.request_ids import HEADER, request_id

logger = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Watcher = Callable[[Exchange], None]
"""Called on the event loop: it must be quick, and must not wait."""

_TRACE_HEADERS = ("traceparent", "tracestate")  # https://www.w3.org/TR/trace-context/
_METHODS = {
    f"/{service.full_name}/{method.name}": method.name
    for service in (
        reward_pb2.DESCRIPTOR.services_by_name["RewardService"],
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    )
    for method in service.methods
}


class Watch(grpc.aio.ServerInterceptor):
    """Whoever watches cannot make a request fail."""

    def __init__(self, watchers: Sequence[Watcher] = (), *, is_audited: bool = False) -> None:
        self._watchers = watchers
        self._is_audited = is_audited
        self.num_open = 0
        """Requests that are not over. From any thread."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        found = await continuation(handler_call_details)
        method = _METHODS.get(handler_call_details.method)
        if found is None or method is None:
            return found
        handler: Any = found
        read, written = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary:
            behavior = self._one(method, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(behavior, read, written)
        if handler.unary_stream:
            many = self._many(method, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(many, read, written)
        if handler.stream_stream:  # how strangers are turned away, who are not even read
            refused = self._one(method, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(refused, read, written)
        raise NotImplementedError(f"{method} streams requests for one response")

    def _one(self, method: str, behavior: Any) -> Any:
        async def answer(request: Any, context: Context) -> Any:
            with self._watched(method, context):
                return await behavior(request, context)

        return answer

    def _many(self, method: str, behavior: Any) -> Any:
        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._watched(method, context):
                async with aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        yield response

        return answer

    @contextmanager
    def _watched(self, method: str, context: Context) -> Iterator[None]:
        sent = dict(context.invocation_metadata() or ())
        trace = {name: str(sent[name]) for name in _TRACE_HEADERS if name in sent}
        peer = context.peer().rpartition(":")[0]
        exchange = Exchange(method, request_id(sent.get(HEADER)), peer, trace)
        exchange.is_audited = self._is_audited
        begin(exchange)
        context.set_trailing_metadata(((HEADER, exchange.request_id),))
        self.num_open += 1
        try:
            yield
        except BaseException as error:
            if exchange.outcome == OK:  # else `abort` noted ours, and then raised gRPC's
                exchange.fail(error)
            raise
        finally:
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        exchange.ended = time.monotonic()
        self.num_open -= 1
        for watcher in self._watchers:
            try:
                watcher(exchange)
            except Exception:
                logger.exception("request %s was not recorded", exchange.request_id)
