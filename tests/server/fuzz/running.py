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

from tests.server.fuzz.surface import REFLECTION, STREAMED, WATCH, Answer, Sent, problem
from tests.server.fuzz.weights import Weights

CORPUS: Final = Path(__file__).parent / "corpus"
TIMEOUT: Final = 120.0
"""Seconds after which a request counts as one that hangs. On a machine with much else to do, 16
critiques at a time took more than 30."""
_DETAILS: Final = "grpc-status-details-bin"


@dataclass
class Found:
    """What a run found."""

    num_requests: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, Sent]] = field(default_factory=list)


async def send(
    address: str,
    requests: Iterable[Sent],
    weights: Weights,
    *,
    num_callers: int = 64,
    seconds: float = float("inf"),
) -> Found:
    """All requests, or as many as there is time for, over one connection."""
    found, source, end = Found(), iter(requests), time.monotonic() + seconds
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        methods = Methods(channel)

        async def call() -> None:
            for case in source:
                if time.monotonic() > end:
                    return
                answer = await _answer(methods, *case)
                found.num_requests += 1
                found.codes[answer.code.name] += 1
                try:
                    bad = problem(case, answer, weights)
                except Exception as error:
                    bad = f"an answer that cannot be read: {error!r}"
                if bad:
                    found.problems.append((bad, case))

        await asyncio.gather(*(call() for _ in range(num_callers)))
    return found


class Methods(dict[str, Any]):
    """Of one channel, each made once."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def __missing__(self, method: str) -> Any:
        if method == REFLECTION:
            made: Any = self._channel.stream_stream(method)
        elif method in STREAMED:
            made = self._channel.unary_stream(method)
        else:
            made = self._channel.unary_unary(method)
        return self.setdefault(method, made)


async def _answer(methods: Methods, method: str, data: bytes) -> Answer:
    messages: list[bytes] = []
    request = iter([data]) if method == REFLECTION else data
    call = methods[method](request, timeout=TIMEOUT)
    try:
        if method == WATCH:  # it would go on for ever
            messages.append(await call.read())
            call.cancel()
        elif method in STREAMED:
            messages += [message async for message in call]
        else:
            messages.append(await call)
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
