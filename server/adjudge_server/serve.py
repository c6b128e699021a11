"""The server's life: listen, load, warm up, serve, drain.

It listens before it loads, so that health checks can tell "starting" from "gone"; until all critics
have answered their first questions, health says NOT_SERVING and calls fail with NOT_READY.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from adjudge.v1 import admin_pb2, admin_pb2_grpc, reward_pb2, reward_pb2_grpc
from adjudge_server.access.gate import gates
from adjudge_server.access.tls import bind
from adjudge_server.access.unix_socket import is_unix
from adjudge_server.admin import AdminService
from adjudge_server.background import in_daemon_thread
from adjudge_server.config import Config
from adjudge_server.health import Health
from adjudge_server.judge import Judge
from adjudge_server.misconfigured import about
from adjudge_server.models import Models
from adjudge_server.models_file import read_models
from adjudge_server.observing.live import Live
from adjudge_server.observing.observation import Observation
from adjudge_server.open_bytes import OpenBytes
from adjudge_server.receiving import Receiver
from adjudge_server.resident import Resident
from adjudge_server.service import RewardService

logger = logging.getLogger(__name__)

SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
LAST_SECONDS = 1.0
"""After the grace period, to tell callers that it is over, and for the models' threads to end."""


class Server:
    """A server in this event loop. `start`, then `load`, then `stop`."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError for a bad file of tokens, or of models."""
        self.config = config
        self.port = 0
        """The port bound, once started."""
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="prepare")
        self.models = Models(read_models(config), self._pool, self._serve)
        self._service = RewardService(config, self.models)
        self._admin = AdminService(self.models, config.weights_dir) if config.enable_admin else None
        self._health = Health(config.write_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
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
        self._loop = asyncio.get_running_loop()
        reward_pb2_grpc.add_RewardServiceServicer_to_server(self._service, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = [SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
        if self._admin is not None:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, self._grpc)
            names.append(ADMIN)
        reflection.enable_server_reflection(names, self._grpc)
        self._tell_health()
        # Answers for this process alone, whatever becomes of its critic: for liveness probes.
        self._health.set(health.SERVICE_NAME, is_serving=True)
        await self._observation.start()
        self.port = bind(self._grpc, self.config)
        await self._grpc.start()

    @property
    def metrics_port(self) -> int | None:
        """That Prometheus may scrape, once started."""
        return self._observation.metrics_port

    async def load(self, settle: Callable[[], None] = lambda: None) -> list[Judge[Any]]:
        """Loads and warms up the critics off the loop, calls `settle`, then serves. Raises
        ValueError."""
        judges = await in_daemon_thread(self._make_judges)
        settle()
        self.models.serve(judges)
        for critic, judge in zip(self.models.critics, judges, strict=True):
            critic.watch_over(judge, self._tell_health_from)
        self._tell_health()
        return judges

    async def stop(self) -> None:
        """Drains: refuses new calls, finishes accepted ones within the grace period, and fails the
        others with NOT_READY."""
        critics = self.models.critics
        self._health.end()
        draining = asyncio.ensure_future(self._grpc.stop(self.config.drain_seconds + LAST_SECONDS))
        await asyncio.gather(*(critic.stop_watching() for critic in critics))
        await asyncio.wait({draining}, timeout=self.config.drain_seconds)
        if not draining.done():
            logger.warning("the grace period is over; what is left fails with NOT_READY")
            for critic in critics:
                critic.abandon("the server ends")
        await draining
        await asyncio.gather(*(critic.close(LAST_SECONDS) for critic in critics))
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._observation.stop()

    def _make_judges(self) -> list[Judge[Any]]:
        self._plan()
        for critic in self.models.critics:
            with self._named(critic):
                critic.load()
        judges = []  # only then, so that each is asked with all others beside it in memory
        for critic in self.models.critics:
            with self._named(critic):
                judges.append(critic.warm_up(self._observation.batch_watcher))
        return judges

    def _plan(self) -> None:
        """Whatever can be found out without weights, which may take minutes to read."""
        templates = {}
        for critic in self.models.critics:
            with self._named(critic):
                templates[critic.name or ""] = critic.plan()
        with self._named():
            self.models.check(templates)

    @contextmanager
    def _named(self, critic: Resident | None = None) -> Iterator[None]:
        """Complaints say which file they are about, and whom of several."""
        try:
            yield
        except ValueError as error:
            if (path := self.config.models) is None:
                raise
            whose = "" if critic is None else f": critic {critic.name!r}"
            raise about(f"--models {path}{whose}", error) from error

    def _serve(self, critic: Resident, judge: Judge[Any] | None) -> None:
        """On the model's thread: no batch runs between other weights and their judge."""
        was_served = critic.judge is not None
        self.models.replace(critic, judge)
        if was_served != (judge is not None):
            self._tell_health_from()

    def _look(self) -> Live:
        """From any thread."""
        return Live(
            critics=tuple(critic.look() for critic in self.models.critics),
            open_critiques=self._service.open_critiques,
            open_requests=self._observation.interceptor.num_open,
            open_bytes=self.open_bytes.total,
            num_tasks=0 if self._loop is None else len(asyncio.all_tasks(self._loop)),
            pictures=self._service.pictures,
        )

    def _tell_health_from(self) -> None:
        """From any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell_health)

    def _tell_health(self) -> None:
        """Of the whole server, which is well when all its critics are; and of each model."""
        is_served = all(critic.is_served for critic in self.models.critics)
        told = {"": is_served, SERVICE: is_served}
        told |= {f"{SERVICE}/{name}": self.models.is_served(name) for name in self.models.names}
        for name, is_well in told.items():
            self._health.set(name, is_well)


def _never_look_again() -> None:
    """Leaves what is loaded out of the garbage collections to come. Each would otherwise go through
    all of torch and transformers, while everybody waits."""
    gc.collect()
    gc.freeze()


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
    loading = asyncio.create_task(server.load(_never_look_again))
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            host = config.listen.rpartition(":")[0]
            where = config.listen if is_unix(config.listen) else f"{host}:{server.port}"
            announce(f"serving {', '.join(server.models.names)} on {where}")
            await stopped
        logger.info("draining")
    finally:
        await server.stop()
