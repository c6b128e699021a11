"""Who watches and does not read keeps nobody from learning what changed."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grpc_health.v1 import health_pb2

from adjudge_server.caches import Memory
from adjudge_server.config import Config
from adjudge_server.health import Health
from adjudge_server.resident import Resident

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def watch(health: Health, service: str) -> AsyncIterator[Any]:
    context: Any = None  # nobody is too slow here
    return health.Watch(health_pb2.HealthCheckRequest(service=service), context)


async def checked(health: Health, service: str) -> int:
    context: Any = None
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service), context)
    return int(answer.status)


def test_a_watcher_that_takes_nothing_more_holds_nobody_up() -> None:
    async def run() -> None:
        health = Health(write_seconds=60.0)
        health.set("critic", True)
        idle, living = watch(health, "critic"), watch(health, "critic")
        assert (await anext(idle)).status == (await anext(living)).status == SERVING
        # `idle` is never resumed, as by gRPC where a caller's window is full.
        health.set("critic", False)
        assert await checked(health, "critic") == NOT_SERVING
        assert (await anext(living)).status == NOT_SERVING
        health.set("critic", True)
        assert (await anext(living)).status == SERVING
        health.end()
        assert (await anext(living)).status == NOT_SERVING
        health.set("critic", True)
        assert await checked(health, "critic") == NOT_SERVING

    asyncio.run(run())


def test_a_service_that_is_not_there_yet_can_be_watched() -> None:
    async def run() -> None:
        health = Health(write_seconds=60.0)
        watcher = watch(health, "later")
        assert (await anext(watcher)).status == UNKNOWN
        health.set("another", True)
        health.set("later", True)
        assert (await anext(watcher)).status == SERVING

    asyncio.run(run())


def test_what_a_critic_remembers_is_counted_on_while_it_is_not_served() -> None:
    with ThreadPoolExecutor(1) as pool:
        resident = Resident(Config(critic="fake"), pool, lambda *_: None)
        resident.load()
        critic: Any = resident._critic
        critic.memory = lambda: Memory(reused_tokens=7)
        judge = resident.warm_up(lambda _: None)
        for at_work in (judge, None, judge):
            resident.judge = at_work
            assert resident.look().memory.reused_tokens == 7
        assert resident.batcher is not None
        resident.batcher.close(30.0)
