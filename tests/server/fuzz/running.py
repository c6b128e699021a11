"""Sends bad requests to a server and keeps those that it answers badly."""

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from tests.server.fuzz.surface import STREAMED, Answer, problem

CORPUS: Final = Path(__file__).parent / "corpus"
TIMEOUT: Final = 120.0
"""Seconds after which a request counts as one that hangs. On a machine with much else to do, 16
critiques at a time took more than 30."""
_DETAILS: Final = "grpc-status-details-bin"

Sent = tuple[str, bytes]
"""A method, and what was sent to it."""


@dataclass
class Found:
    """What a run found."""

    num_requests: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, Sent]] = field(default_factory=list)


async def send(
    address: str, requests: Iterable[Sent], *, num_callers: int = 16, seconds: float = float("inf")
) -> Found:
    """All requests, or as many as there is time for."""
    found, source, end = Found(), iter(requests), time.monotonic() + seconds
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options) as channel:

        async def call() -> None:
            for method, data in source:
                if time.monotonic() > end:
                    return
                answer = await _answer(channel, method, data)
                found.num_requests += 1
                found.codes[answer.code.name] += 1
                try:
                    bad = problem(method, answer)
                except Exception as error:
                    bad = f"an answer that cannot be read: {error!r}"
                if bad:
                    found.problems.append((bad, (method, data)))

        await asyncio.gather(*(call() for _ in range(num_callers)))
    return found


async def _answer(channel: grpc.aio.Channel, method: str, data: bytes) -> Answer:
    messages: list[bytes] = []
    call: Any
    try:
        if method not in STREAMED:
            call = channel.unary_unary(method)(data, timeout=TIMEOUT)
            messages.append(await call)
        else:
            # A stream of one request, also where the method takes just one.
            call = channel.stream_stream(method)(iter([data]), timeout=TIMEOUT)
            messages += [message async for message in call]
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        details = trailers.get(_DETAILS, b"")
        assert isinstance(details, bytes)
        return Answer(messages, error.code(), error.details() or "", details)
    return Answer(messages, grpc.StatusCode.OK, "", b"")


# Cases --------------------------------------------------------------------------------------------


def kept(folder: Path = CORPUS) -> Iterator[Sent]:
    """What was found once: the file has the method in its first line, then the request."""
    for path in sorted(folder.glob("*.case")):
        method, _, data = path.read_bytes().partition(b"\n")
        yield method.decode(), data


def keep(case: Sent, folder: Path = CORPUS) -> Path:
    method, data = case
    path = folder / f"{method.rpartition('/')[2]}-{hashlib.sha256(data).hexdigest()[:12]}.case"
    path.write_bytes(method.encode() + b"\n" + data)
    return path


def forever(request: Any) -> Iterator[Sent]:
    return (request() for _ in itertools.count())
