"""Spans for OpenTelemetry, as children of the caller's (https://www.w3.org/TR/trace-context/).

Only its API is needed here. Where spans go is for its SDK to say, which whoever runs the server
brings and configures: without it they go nowhere.
"""

import time
from typing import TYPE_CHECKING, Any

from adjudge_server.misconfigured import Misconfigured
from adjudge_server.observing.exchange import CANCELLED, OK, READ, Exchange, Stage

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Traces:
    """A watcher (see `watching`). Spans are made when a request is over, with the times it had."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        """None: the process's own provider. Raises Misconfigured where OpenTelemetry is missing."""
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise Misconfigured(
                "--traces: opentelemetry-api is not installed; it comes with adjudge[otel]"
            ) from error
        self._trace = trace
        self._tracer = trace.get_tracer("adjudge_server", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, exchange: Exchange) -> None:
        trace = self._trace
        # Between the monotonic clock and that of the world, as they stand now.
        offset = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            exchange.method,
            context=self._propagator.extract(exchange.trace),
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(exchange),
            start_time=_ns(exchange.began, offset),
        )
        if span.is_recording():
            above = trace.set_span_in_context(span)
            for stage in _stages(exchange):
                began, ended = _ns(stage.began, offset), _ns(stage.ended, offset)
                self._tracer.start_span(stage.name, context=above, start_time=began).end(ended)
            if exchange.outcome not in (OK, CANCELLED):
                span.set_status(trace.StatusCode.ERROR, exchange.outcome)
        span.end(_ns(exchange.ended, offset))


def _stages(exchange: Exchange) -> list[Stage]:
    """Reading as two: until the item that waited longest left the queue, and the rest."""
    stages = []
    for stage in exchange.stages:
        if stage.name != READ:
            stages.append(stage)
            continue
        left = min(stage.began + exchange.work.queue_seconds, stage.ended)
        stages += [Stage("queue", stage.began, left), Stage("forward", left, stage.ended)]
    return stages


def _attributes(exchange: Exchange) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "rpc.system": "grpc",
        "rpc.method": exchange.method,
        "adjudge.request_id": exchange.request_id,
        "adjudge.outcome": exchange.outcome,
        "adjudge.items": len(exchange.items),
        "adjudge.input_tokens": exchange.work.input_tokens,
        "adjudge.computed_tokens": exchange.work.computed_tokens,
    }
    if exchange.template is not None:
        attributes["adjudge.template"] = exchange.template.name
    if exchange.model:
        attributes["adjudge.model"] = exchange.model
    if exchange.items:
        attributes["adjudge.weights_epoch"] = exchange.epoch
    return attributes


def _ns(seconds: float, offset: int) -> int:
    return int(seconds * 1e9) + offset
