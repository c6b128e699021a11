"""One critic of a server, from its loading to its end: its queue and thread, its vitals, and the
weights that may take the place of its own."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from adjudge_server.batcher import Batcher, WatchBatch
from adjudge_server.caches import Memory
from adjudge_server.config import Config
from adjudge_server.critic import Critic, Remote
from adjudge_server.errors import NotReady
from adjudge_server.judge import Judge
from adjudge_server.loading import load_planned
from adjudge_server.moving import Mover
from adjudge_server.observing.live import LiveCritic
from adjudge_server.planning import Plan, plan
from adjudge_server.self_check import SelfCheck, ask_first, check, check_room
from adjudge_server.templates import Template
from adjudge_server.vitals import State, Vitals

logger = logging.getLogger(__name__)

ENOUGH_ON_CPU, ENOUGH = 2048, 8192
"""Tokens with which a batch is as cheap per token as it gets."""

BatchWatcher = Callable[[str], WatchBatch | None]
"""Who watches the batches of the critic of that name, if anybody does."""
Serve = Callable[["Resident", Judge[Any] | None], None]


class Resident:
    """`plan`, `load`, `warm_up`, then `watch_over`; at the end `stop_watching`, perhaps `abandon`,
    and `close`."""

    def __init__(self, config: Config, pool: Executor, serve: Serve) -> None:
        """`config`: this critic's own. `serve` is called on the model's thread with who answers
        from then on, or None, where the weights moved: it sets `judge`."""
        self.config = config
        self.judge: Judge[Any] | None = None
        """Who answers; None until that is known, and when the weights are lost."""
        self.batcher: Batcher[Any] | None = None
        self.mover: Mover | None = None
        self._pool = pool
        self._serve = serve
        self._plan: Plan | None = None
        self._critic: Critic[Any] | None = None
        self._vitals: Vitals | None = None

    @property
    def name(self) -> str | None:
        """None while only its checkpoint could tell."""
        return self.config.name if self._critic is None else self._critic.card.name

    @property
    def is_served(self) -> bool:
        return self.judge is not None and self._is_well

    @property
    def _is_well(self) -> bool:
        return self._vitals is None or self._vitals.state is State.WELL

    def plan(self) -> Sequence[Template]:
        """In a thread. What it will be asked with, though its weights are not read yet. Raises
        ValueError."""
        self._plan = plan(self.config)
        return self._plan.templates

    def load(self) -> None:
        """In a thread. Raises ValueError."""
        assert self._plan is not None
        critic = load_planned(self._plan)
        logger.info("loaded %s, %s on %s", critic.card.name, critic.card.dtype, critic.card.device)
        self._critic = critic

    def warm_up(self, watcher: BatchWatcher) -> Judge[Any]:
        """In a thread. The judge that it can be served by. Raises ValueError."""
        critic = self._critic
        assert critic is not None
        self_check = _checked(critic, self.config.max_batch_tokens)
        logger.info("warm: %s; %s", critic.card.name, self_check)
        self.batcher = Batcher(
            critic.forward,
            max_batch_tokens=self.config.max_batch_tokens,
            max_queue_tokens=self.config.max_queue_tokens,
            # A turn that is longer than a batch would be several.
            enough_tokens=min(
                ENOUGH_ON_CPU if critic.card.device == "cpu" else ENOUGH,
                self.config.max_batch_tokens,
            ),
            forget=critic.forget,
            watch=watcher(critic.card.name),
        )
        return Judge(critic, self.batcher, self._pool, self_check, self.config)

    def watch_over(self, judge: Judge[Any], tell: Callable[[], None]) -> None:
        """From now on. `tell` is called, from some thread, when `is_served` may have changed."""
        self.mover = Mover(judge, lambda moved: self._serve(self, moved))
        self._vitals = Vitals(
            judge.batcher,
            lambda afresh: ask_first(judge.critic, afresh=afresh),
            tell,
            name=judge.card.name,
            beat=judge.critic.beat if isinstance(judge.critic, Remote) else None,
            watchdog_seconds=self.config.watchdog_seconds,
            exits=self.config.on_stuck == "exit",
        )

    def look(self) -> LiveCritic:
        """From any thread."""
        judge = self.judge if self._is_well else None
        # Whether it is well or not: what is counted goes on from where it was.
        memory = Memory() if self._critic is None else self._critic.memory()
        return LiveCritic(
            name=self.name or "",
            card=None if judge is None else judge.card,
            epoch=None if judge is None else judge.weights_epoch,
            queue_tokens=0 if self.batcher is None else self.batcher.queued_tokens,
            max_queue_tokens=self.config.max_queue_tokens,
            memory=memory,
        )

    async def stop_watching(self) -> None:
        if self._vitals is not None:
            await asyncio.to_thread(self._vitals.stop)

    def abandon(self, why: str) -> None:
        """Fails what is left with NotReady."""
        if self.batcher is not None:
            self.batcher.abandon(NotReady(why), refusal=why)

    async def close(self, seconds: float) -> None:
        """Ends the model's thread, if it ends in that time."""
        if self.batcher is not None:
            await asyncio.to_thread(self.batcher.close, seconds)
        if isinstance(self._critic, Remote):
            await asyncio.to_thread(self._critic.close)


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
