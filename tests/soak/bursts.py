"""Far more at once than the queue holds, by a caller that does not wait to be told twice."""

import asyncio
from typing import Any

import grpc.aio

from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from tests.soak.askers import TIMEOUT, Traffic
from tests.soak.messages import check_failure, check_scores, score_request

CALLS = 24
CANDIDATES = 24
MAX_QUEUE_TOKENS = 8_000
"""Of the server; a burst is some 15,000."""
SECONDS = 120.0
"""Between two."""


async def bursts(traffic: Traffic) -> None:
    while not traffic.stop.is_set():
        async with grpc.aio.insecure_channel(traffic.address) as channel:
            await asyncio.gather(*(_ask(traffic, channel, i) for i in range(CALLS)))
        traffic.tally.count("burst", "burst")
        await traffic.pause(SECONDS)


async def _ask(traffic: Traffic, channel: grpc.aio.Channel, index: int) -> None:
    asked = traffic.known_question()
    more = [f"Number {index} says {i}, which is a guess." for i in range(CANDIDATES)]
    request = score_request(asked, more)
    stub: Any = RewardServiceStub(channel)
    try:
        response = await stub.ScoreCandidates(request, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        check_failure(traffic.tally, "burst", error)
    else:
        check_scores(traffic.tally, "burst", asked, request, response)
