"""The server's life: listen, load, warm up, serve, drain.

It listens before it loads, so that health checks can tell "starting" from "gone"; until the critic
has answered its first questions, health says NOT_SERVING and calls fail with NOT_READY.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from adjudge.v1 import admin_pb2, admin_pb2_grpc, reward_pb2, reward_pb2_grpc
from adjudge_server.access.gate import gates
from adjudge_server.access.tls import bind
from adjudge_server.admin import AdminService
from adjudge_server.background import in_daemon_thread
from adjudge_server.batcher import Batcher
from adjudge_server.caches import Memory
from adjudge_server.config import Config
from adjudge_server.critic import Critic
from adjudge_server.errors import NotReady
from adjudge_server.judge import Judge
from adjudge_server.loading import load_critic
from adjudge_server.moving import Mover
from adjudge_server.observing.live import Live
from adjudge_server.observing.observation import Observation
from adjudge_server.open_bytes import OpenBytes
from adjudge_server.receiving import Receiver
from adjudge_server.self_check import SelfCheck, ask_first, check, check_room
from adjudge_server.service import RewardService
from adjudge_server.vitals import State, Vitals

logger = logging.getLogger(__name__)

SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
ENOUGH_ON_CPU, ENOUGH = 2048, 8192
"""Tokens with which a batch is as cheap per token as it gets."""
LAST_SECONDS = 1.0
"""After the grace period, to tell callers that it is over, and for the model's thread to end."""


class Server:
    """A server in this event loop. `start`, then `load`, then `stop`."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError for a bad file of tokens."""
        self.config = config
        self.port = 0
        """The port bound, once started."""
        self._service = RewardService(config)
        self._admin = AdminService(config.weights_dir) if config.enable_admin else None
        self._health = health.aio.HealthServicer()
        self._batcher: Batcher[Any] | None = None
        self._vitals: Vitals | None = None
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="prepare")
        self._observation = Observation(config, self._look)
        self.open_bytes = OpenBytes(config.max_open_bytes)
        self._grpc = grpc.aio.server(
            interceptors=[
                self._observation.interceptor,
                *gates(config),
                Receiver(self.open_bytes),
            ],
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.max_concurrent_streams", config.max_streams),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ],
        )

    async def start(self) -> None:
        """Binds and answers, NOT_SERVING. Raises RuntimeError where the address cannot be bound,
        ValueError for certificates that make no sense."""
        reward_pb2_grpc.add_RewardServiceServicer_to_server(self._service, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = [SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
        if self._admin is not None:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, self._grpc)
            names.append(ADMIN)
        reflection.enable_server_reflection(names, self._grpc)
        await self._tell_health()
        await self._observation.start()
        self.port = bind(self._grpc, self.config)
        await self._grpc.start()

    @property
    def metrics_port(self) -> int | None:
        """That Prometheus may scrape, once started."""
        return self._observation.metrics_port

    async def load(self) -> Judge[Any]:
        """Loads and warms up the critic off the loop, then serves. Raises ValueError."""
        judge = await in_daemon_thread(self._make_judge)
        self._service.judge, self._batcher = judge, judge.batcher
        if self._admin is not None:
            loop = asyncio.get_running_loop()
            self._admin.mover = Mover(judge, partial(self._serve, loop))
        self._vitals = Vitals(
            judge.batcher,
            lambda afresh: ask_first(judge.critic, afresh=afresh),
            partial(self._tell_health_from, asyncio.get_running_loop()),
            watchdog_seconds=self.config.watchdog_seconds,
            exits=self.config.on_stuck == "exit",
        )
        await self._tell_health()
        return judge

    async def stop(self) -> None:
        """Drains: refuses new calls, finishes accepted ones within the grace period, and fails the
        others with NOT_READY."""
        await self._health.enter_graceful_shutdown()
        if self._vitals is not None:
            await asyncio.to_thread(self._vitals.stop)
        draining = asyncio.ensure_future(self._grpc.stop(self.config.drain_seconds + LAST_SECONDS))
        await asyncio.wait({draining}, timeout=self.config.drain_seconds)
        if self._batcher is not None and not draining.done():
            logger.warning("the grace period is over; what is left fails with NOT_READY")
            ends = "the server ends"
            self._batcher.abandon(NotReady(ends), refusal=ends)
        await draining
        if self._batcher is not None:
            await asyncio.to_thread(self._batcher.close, LAST_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._observation.stop()

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
            watch=self._observation.watch_batch,
        )
        return Judge(critic, batcher, self._pool, self_check)

    def _serve(self, loop: asyncio.AbstractEventLoop, judge: Judge[Any] | None) -> None:
        """On the model's thread: no batch runs between other weights and their judge."""
        was_served = self._service.judge is not None
        self._service.judge = judge
        if was_served != (judge is not None):
            self._tell_health_from(loop)

    def _look(self) -> Live:
        """From any thread."""
        service, batcher = self._service, self._batcher
        judge = service.judge if self._is_well() else None
        memory = Memory() if judge is None else judge.critic.memory()
        return Live(
            card=None if judge is None else judge.card,
            epoch=None if judge is None else judge.weights_epoch,
            queue_tokens=0 if batcher is None else batcher.queued_tokens,
            max_queue_tokens=self.config.max_queue_tokens,
            open_critiques=service.open_critiques,
            caches={
                "prefixes": memory.prefixes,
                "features": memory.features,
                "pictures": service.pictures,
            },
            reused_tokens=memory.reused_tokens,
            computed_tokens=memory.computed_tokens,
        )

    def _is_well(self) -> bool:
        return self._vitals is None or self._vitals.state is State.WELL

    def _tell_health_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """From any thread."""
        asyncio.run_coroutine_threadsafe(self._tell_health(), loop)

    async def _tell_health(self) -> None:
        statuses = health_pb2.HealthCheckResponse
        is_served = self._service.judge is not None and self._is_well()
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


def _told_to_stop(stopping: asyncio.Event, number: signal.Signals) -> None:
    if stopping.is_set():
        logger.warning("%s again: it ends at once, whoever waits", number.name)
        os._exit(128 + number)  # as a shell reports it
    stopping.set()


async def serve(config: Config, announce: Callable[[str], None] = print) -> None:
    """Runs a server until SIGTERM or SIGINT; a second one ends the process at once. `announce` gets
    one line once it is ready."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _told_to_stop, stopping, number)
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
