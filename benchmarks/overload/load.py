"""Requests of known cost, at a rate or a number at a time, and what came of each."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_reranker.errors import RewardError, error_from_rpc

CANDIDATES = 8
PATIENCE = 600.0
"""Seconds; nobody gives up."""
numbers = itertools.count()
"""Of requests, so that no two are about the same prompt."""


@dataclass(frozen=True, slots=True)
class Call:
    """One that is over."""

    ended: float
    """On the monotonic clock."""
    seconds: float
    tokens: int = 0
    """Computed for it; 0 where it was refused."""
    error: RewardError | None = None

    @property
    def is_told_when(self) -> bool:
        """Refused as promised: UNAVAILABLE, and when to come back."""
        error = self.error
        if error is None or error.code is not grpc.StatusCode.UNAVAILABLE:
            return False
        return error.reason == "QUEUE_FULL" and bool(error.retry_after_seconds)


def content(number: int, num_candidates: int = CANDIDATES) -> tuple[str, list[str]]:
    """A prompt, and candidates of a dozen tokens each."""
    candidates = [
        f"Candidate {index} of request {number} has about a dozen words in it."
        for index in range(num_candidates)
    ]
    return f"Question {number}?", candidates


def request(number: int, num_candidates: int = CANDIDATES) -> pb.ScoreCandidatesRequest:
    prompt, candidates = content(number, num_candidates)
    message = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text=prompt)])
    return pb.ScoreCandidatesRequest(
        prompt=[message],
        candidates=[pb.Candidate(parts=[pb.Part(text=text)]) for text in candidates],
    )


@asynccontextmanager
async def connections(address: str, count: int) -> AsyncIterator[list[Any]]:
    """Stubs, each with a connection of its own: a client each, to the server."""
    channels = [
        grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(count)
    ]
    try:
        yield [RewardServiceStub(channel) for channel in channels]
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def ask(stub: Any, num_candidates: int = CANDIDATES) -> Call:
    began = time.monotonic()
    try:
        response = await stub.ScoreCandidates(
            request(next(numbers), num_candidates), timeout=PATIENCE
        )
    except grpc.aio.AioRpcError as error:
        ended = time.monotonic()
        return Call(ended, ended - began, error=error_from_rpc(error))
    ended = time.monotonic()
    return Call(ended, ended - began, tokens=response.provenance.computed_tokens)


async def at_a_time(stubs: Sequence[Any], in_flight: int, seconds: float) -> list[Call]:
    """So many are in flight until the time is over: as each ends, the next begins."""
    end, found = time.monotonic() + seconds, list[Call]()

    async def ask_on(stub: Any) -> None:
        while time.monotonic() < end:
            found.append(await ask(stub))

    await asyncio.gather(*(ask_on(stubs[i % len(stubs)]) for i in range(in_flight)))
    return found


async def at_rate(stubs: Sequence[Any], per_second: float, seconds: float) -> list[Call]:
    """At random, by Poisson, whatever becomes of those before; waits for all."""
    began, choose = time.monotonic(), random.Random(7)
    asked: list[asyncio.Task[Call]] = []
    due = choose.expovariate(per_second)
    while due < seconds:
        # Late, it sends what has become due all at once.
        await asyncio.sleep(max(0.0, began + due - time.monotonic()))
        asked.append(asyncio.create_task(ask(choose.choice(stubs))))
        due += choose.expovariate(per_second)
    return list(await asyncio.gather(*asked))


def tokens_per_second(calls: Sequence[Call], since: float, until: float) -> float:
    """Of those that were answered between two moments of the monotonic clock."""
    return sum(call.tokens for call in calls if since <= call.ended < until) / (until - since)
