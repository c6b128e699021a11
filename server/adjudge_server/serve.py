"""The server's life: listen, load, warm up, serve, drain.

It listens before it loads, so that health checks can tell "starting" from "gone"; until the critic
has answered its first questions, health says NOT_SERVING and calls fail with NOT_READY.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from adjudge.v1 import admin_pb2, admin_pb2_grpc, reward_pb2, reward_pb2_grpc
from adjudge_server.admin import AdminService
from adjudge_server.background import in_daemon_thread
from adjudge_server.batcher import Batcher
from adjudge_server.config import Config
from adjudge_server.critic import Critic
from adjudge_server.judge import Judge
from adjudge_server.loading import load_critic
from adjudge_server.moving import Mover
from adjudge_server.self_check import SelfCheck, check, check_room
from adjudge_server.service import RewardService

logger = logging.getLogger(__name__)

SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
ENOUGH_ON_CPU, ENOUGH = 2048, 8192
"""Tokens with which a batch is as cheap per token as it gets."""


class Server:
    """A server in this event loop. `start`, then `load`, then `stop`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 0
        """The port bound, once started."""
        self._service = RewardService(config)
        self._admin = AdminService(config.weights_dir) if config.enable_admin else None
        self._health = health.aio.HealthServicer()
        self._batcher: Batcher[Any] | None = None
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="prepare")
        self._grpc = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ]
        )

    async def start(self) -> None:
        """Binds and answers, NOT_SERVING. Raises RuntimeError where the address cannot be bound."""
        reward_pb2_grpc.add_RewardServiceServicer_to_server(self._service, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = [SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
        if self._admin is not None:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, self._grpc)
            names.append(ADMIN)
        reflection.enable_server_reflection(names, self._grpc)
        await self._tell_health()
        self.port = self._grpc.add_insecure_port(self.config.listen)
        await self._grpc.start()

    async def load(self) -> Judge[Any]:
        """Loads and warms up the critic off the loop, then serves. Raises ValueError."""
        judge = await in_daemon_thread(self._make_judge)
        self._service.judge, self._batcher = judge, judge.batcher
        if self._admin is not None:
            loop = asyncio.get_running_loop()
            self._admin.mover = Mover(judge, partial(self._serve, loop))
        await self._tell_health()
        return judge

    async def stop(self) -> None:
        """Drains: refuses new calls, finishes accepted ones within the grace period."""
        await self._health.enter_graceful_shutdown()
        await self._grpc.stop(self.config.drain_seconds)
        if self._batcher is not None:
            await asyncio.to_thread(self._batcher.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make_judge(self) -> Judge[Any]:
        critic = load_critic(self.config)
        logger.info("loaded %s, %s on %s", critic.card.name, critic.card.dtype, critic.card.device)
        self_check = _checked(critic, self.config.max_batch_tokens)
        logger.info("warm; %s", self_check)
        batcher = Batcher(
            critic.forward,
            max_batch_tokens=self.config.max_batch_tokens,
            max_queue_tokens=self.config.max_queue_tokens,
            enough_tokens=ENOUGH_ON_CPU if critic.card.device == "cpu" else ENOUGH,
            forget=critic.forget,
        )
        return Judge(critic, batcher, self._pool, self_check)

    def _serve(self, loop: asyncio.AbstractEventLoop, judge: Judge[Any] | None) -> None:
        """On the model's thread: no batch runs between other weights and their judge."""
        was_served = self._service.judge is not None
        self._service.judge = judge
        if was_served != (judge is not None):
            asyncio.run_coroutine_threadsafe(self._tell_health(), loop)

    async def _tell_health(self) -> None:
        statuses = health_pb2.HealthCheckResponse
        is_served = self._service.judge is not None
        for name in ("", SERVICE):
            await self._health.set(name, statuses.SERVING if is_served else statuses.NOT_SERVING)


def _checked(critic: Critic[Any], max_batch_tokens: int) -> SelfCheck:
    """The first questions. Raises ValueError for whatever a model raises at them."""
    try:
        found = check(critic)
        if critic.card.device.startswith(
            "cuda"
        ):  # elsewhere memory is not what a batch runs out of
            check_room(critic, max_batch_tokens)
        return found
    except ValueError:
        raise
    except Exception as error:
        logger.debug("at the first questions", exc_info=True)
        raise ValueError(
            f"{critic.card.name} fails at its first questions: {type(error).__name__}: {error}"
        ) from error


async def serve(config: Config, announce: Callable[[str], None] = print) -> None:
    """Runs a server until SIGTERM or SIGINT. `announce` gets one line once it is ready."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(config)
    await server.start()
    loading = asyncio.create_task(server.load())
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            judge = loading.result()
            host = config.listen.rpartition(":")[0]
            announce(f"serving {judge.card.name} on {host}:{server.port}")
            await stopped
        logger.info("draining")
    finally:
        await server.stop()
