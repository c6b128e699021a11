"""Spans, from a caller's to those of the stages, through a real server."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from adjudge_reranker import AsyncRewardClient, RequestRefused, RewardClient
from adjudge_reranker.tracing import trace_metadata
from adjudge_server.serve import Server
from tests.conftest import Launch
from tests.server.test_service import wait_until

EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)  # a process has one, and it stays
    return launch(critic="fake", traces=True, max_candidates=3)


@pytest.fixture(autouse=True)
def no_spans_before() -> Iterator[None]:
    EXPORTER.clear()
    yield


def spans(name: str) -> list[ReadableSpan]:
    return [span for span in EXPORTER.get_finished_spans() if span.name == name]


def test_stages_are_spans_under_the_span_of_the_caller(server: Server) -> None:
    tracer = trace.get_tracer("test")
    client = RewardClient(f"127.0.0.1:{server.port}")
    with client, tracer.start_as_current_span("step") as step:
        client.score("Why?", ["a", "b"])
    (request,) = spans("ScoreCandidates")
    assert request.parent is not None
    assert request.parent.span_id == step.get_span_context().span_id
    assert request.context.trace_id == step.get_span_context().trace_id
    assert request.attributes is not None and request.attributes["adjudge.items"] == 2
    within = [
        span
        for span in EXPORTER.get_finished_spans()
        if span.parent and span.parent.span_id == request.context.span_id
    ]
    assert [span.name for span in within] == ["decode", "prepare", "queue", "forward"]
    times = [time for span in within for time in (span.start_time, span.end_time)]
    assert times == sorted(times)
    assert request.start_time <= times[0] and times[-1] <= request.end_time
    step_span = spans("step")[0]
    assert step_span.start_time <= request.start_time
    assert request.end_time <= step_span.end_time


def test_every_part_of_a_large_request_is_under_it(server: Server) -> None:
    client = RewardClient(f"127.0.0.1:{server.port}")
    with client, trace.get_tracer("test").start_as_current_span("step") as step:
        client.score("Why?", [str(i) for i in range(9)])
    judged = [s for s in spans("ScoreCandidates") if s.attributes["adjudge.items"]]
    assert len(judged) == 3
    assert {span.parent.span_id for span in judged} == {step.get_span_context().span_id}


async def ask(address: str) -> None:
    async with AsyncRewardClient(address) as client:
        with trace.get_tracer("test").start_as_current_span("step"):
            await client.score("Why?", ["a"])


def test_the_asyncio_client_does_the_same(server: Server) -> None:
    asyncio.run(ask(f"127.0.0.1:{server.port}"))
    (request,), (step,) = spans("ScoreCandidates"), spans("step")
    assert request.parent.span_id == step.context.span_id


def test_a_request_without_a_span_begins_a_trace(server: Server) -> None:
    with RewardClient(f"127.0.0.1:{server.port}") as client:
        client.score("Why?", ["a"])
        with pytest.raises(RequestRefused):
            client.score("Why?", ["a"], template="none")
    wait_until(lambda: len(spans("ScoreCandidates")) == 2)  # a refusal is known before it is over
    good, bad = spans("ScoreCandidates")
    assert good.parent is None and good.status.status_code is trace.StatusCode.UNSET
    assert bad.status.status_code is trace.StatusCode.ERROR
    assert bad.status.description == "UNKNOWN_TEMPLATE"


def test_without_a_span_nothing_is_sent() -> None:
    assert trace_metadata() == ()


def test_the_client_does_not_import_opentelemetry() -> None:
    program = (
        "import sys, adjudge_reranker\n"
        "from adjudge_reranker.tracing import trace_metadata\n"
        "assert trace_metadata() == ()\n"
        "print('opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_server_without_opentelemetry_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from adjudge_server.__main__ import main\n"
        "sys.argv = ['adjudge-server', '--critic', 'fake', '--listen', '127.0.0.1:0', '--traces']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "adjudge-server: --traces: opentelemetry-api is not installed; it comes with adjudge[otel]"
    )
