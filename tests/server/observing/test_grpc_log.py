"""What gRPC itself writes into the log."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import pytest

from adjudge_server.observing.logs import GRPC, is_news

LARGE = b"1" * 3_000_000
"""No window holds it: the sending waits for a caller who then leaves."""


async def _large_ones(request: bytes, context: object) -> AsyncIterator[bytes]:
    while True:
        yield LARGE


async def _broken(request: bytes, context: object) -> AsyncIterator[bytes]:
    yield b""
    raise ValueError("a bug of ours")


async def _leave_in_the_middle(handler: object, calls: int) -> None:
    server = grpc.aio.server()
    method = grpc.unary_stream_rpc_method_handler(handler)
    service = grpc.method_handlers_generic_handler("a.Service", {"Stream": method})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    for _ in range(calls):
        await asyncio.to_thread(_call_and_leave, port)
    await server.stop(0)


def _call_and_leave(port: int) -> None:
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=own) as channel:
        call = channel.unary_stream("/a.Service/Stream")(b"")
        next(call, None)


def test_a_caller_who_leaves_while_it_is_sent_something_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(20):
        asyncio.run(_leave_in_the_middle(_large_ones, calls=30))
        if caplog.records:
            break
    assert caplog.records and {record.name for record in caplog.records} == {GRPC}
    assert not any(map(is_news, caplog.records))


def test_a_fault_of_the_server_is_news(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(_leave_in_the_middle(_broken, calls=3))
    faults = [r for r in caplog.records if r.exc_info and isinstance(r.exc_info[1], ValueError)]
    assert faults and all(map(is_news, faults))


def test_the_log_of_a_process_has_only_what_is_news() -> None:
    program = f"""
import logging
from grpc._cython.cygrpc import ExecuteBatchError
from adjudge_server.observing.logs import configure
configure("json", "debug")
for error in (
    ExecuteBatchError('Failed "execute_batch": (SendMessageOperation,)'),
    ExecuteBatchError("Failed grpc_call_start_batch: 8"),
    ValueError("a bug of ours"),
):
    logging.getLogger("{GRPC}").error("raised", exc_info=error)
logging.getLogger("{GRPC}").error("said")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    told = [line.get("exception", line["message"]).rsplit(": ", 1)[-1] for line in lines]
    assert told == ["8", "a bug of ours", "said"]
