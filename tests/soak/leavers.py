"""Callers that do not wait: who cancels, hangs up, has no time, is killed, or does not read."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

import grpc
import grpc.aio

from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from tests.soak.askers import TIMEOUT, Traffic
from tests.soak.messages import check_failure, check_scores, critique_request, score_request

GONE = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
"""What a caller that left may find, without a reason: nobody was there to be told."""
_STINGY = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
"""A caller whose windows are soon full."""


async def leaver(traffic: Traffic) -> None:
    """Several calls at a time, all of which end before they are answered, or are answered right."""
    while not traffic.stop.is_set():
        how = traffic.choose.choice(("cancels", "hangs up", "has no time"))
        async with grpc.aio.insecure_channel(traffic.address) as channel:
            calls = [_leave(traffic, channel, how) for _ in range(4)]
            leaving = asyncio.gather(*calls)
            if how == "hangs up":
                await asyncio.sleep(traffic.choose.uniform(0.0, 0.3))
                await channel.close()
            await leaving
        await traffic.pause(2.0)


async def _leave(traffic: Traffic, channel: grpc.aio.Channel, how: str) -> None:
    asked = traffic.known_question()
    more = [f"It is number {i}, most likely." for i in range(traffic.choose.randrange(20))]
    timeout = traffic.choose.uniform(0.001, 0.3) if how == "has no time" else TIMEOUT
    request = score_request(asked, more)
    stub: Any = RewardServiceStub(channel)
    try:
        call = stub.ScoreCandidates(request, timeout=timeout)
        if how == "cancels":
            await asyncio.sleep(traffic.choose.random() / 4)
            call.cancel()
        check_scores(traffic.tally, how, asked, request, await call)
    except asyncio.CancelledError:
        traffic.tally.count(how, "CANCELLED")
    except grpc.aio.UsageError:
        traffic.tally.count(how, "hung up before")
    except grpc.aio.AioRpcError as error:
        if error.code() in GONE:
            traffic.tally.count(how, error.code().name)
        else:
            check_failure(traffic.tally, how, error)


async def killed_clients(traffic: Traffic) -> None:
    while not traffic.stop.is_set():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.soak.victim", traffic.address), stdout=PIPE
        )
        try:
            assert process.stdout is not None
            if (said := await process.stdout.readline()) != b"asking\n":
                traffic.tally.untyped.append(f"a client to be killed: {said!r}")
            await traffic.pause(traffic.choose.uniform(0.1, 2.0))
        finally:
            process.kill()
            await process.wait()
        traffic.tally.count("client", "killed")
        await traffic.pause(25.0)


async def slow_reader(traffic: Traffic) -> None:
    """Takes a while between events, or reads one and no more."""
    while not traffic.stop.is_set():
        never = traffic.choose.random() < 0.5
        asked = traffic.known_question()
        more = [f"It is number {i}, most likely." for i in range(80)] if never else []
        async with grpc.aio.insecure_channel(traffic.address, _STINGY) as channel:
            stub: Any = RewardServiceStub(channel)
            call = stub.CritiqueCandidates(critique_request(asked, more), timeout=TIMEOUT)
            try:
                async for _ in call:
                    await traffic.pause(20.0 if never else 0.3)
                    if never and traffic.choose.random() < 0.5:
                        break  # and hangs up
            except grpc.aio.AioRpcError as error:
                check_failure(traffic.tally, "slow reader", error)
            else:
                traffic.tally.count("slow reader", "left" if never else "OK")
