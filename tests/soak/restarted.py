"""A second server that is killed and started again, and a client that knows both."""

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from adjudge_reranker import AsyncRewardClient
from tests.soak.askers import TIMEOUT, Traffic, again

LIFE_SECONDS = (5.0, 60.0)
"""From when it serves; now and then it is killed while it starts."""


async def failing_over(traffic: Traffic) -> None:
    """Every answer is right, whoever gave it, and whoever died meanwhile."""
    address = _free_address()
    killer = asyncio.create_task(_restart_for_ever(traffic, address))
    async with AsyncRewardClient([address, traffic.address], timeout=TIMEOUT) as client:

        async def ask() -> None:
            asked = traffic.known_question()
            result = await client.score(asked.prompt, asked.candidates)
            traffic.tally.scored("fail over", asked, result.outcomes)

        await again(traffic, "fail over", 0.5, ask)
    await killer


async def _restart_for_ever(traffic: Traffic, address: str) -> None:
    while not traffic.stop.is_set():
        process = await _start(address)
        try:
            assert process.stdout is not None
            serving = asyncio.create_task(process.stdout.readline())
            stopped = asyncio.create_task(traffic.stop.wait())
            limit = None if traffic.choose.random() < 0.8 else traffic.choose.uniform(0.5, 3.0)
            await asyncio.wait(
                {serving, stopped}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
            if serving.done():
                await traffic.pause(traffic.choose.uniform(*LIFE_SECONDS))
            stopped.cancel()
        finally:
            process.kill()
            await process.wait()
        await serving
        traffic.tally.count("second server", "killed")
        await traffic.pause(traffic.choose.uniform(0.0, 15.0))


async def _start(address: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "adjudge_server", "--listen", address),
        stdout=PIPE,
        stderr=DEVNULL,
    )


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
