"""Tells the server under which span a call is made (https://www.w3.org/TR/trace-context/), so that
a trace of a training step or of a request goes on there.

OpenTelemetry is no dependency: a program that has a span has imported it.
"""

import sys


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """`traceparent`, and perhaps `tracestate`, of the current span; nothing where there is none."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
