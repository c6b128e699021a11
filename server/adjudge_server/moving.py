"""New weights for the critic at work, without a restart. No protobuf.

They are read beside the model (`Critic.read_weights`), then exchanged with its own between two
batches, on the model's thread, which asks the new ones the first questions before anybody else may.
From then on another `Judge`, with the next epoch, is served. Items that wait for the old one are
dropped with WrongEpoch; so are critiques that are being written, at their next token.

Whatever goes wrong leaves the old weights at work. Only a device that fails in the middle of the
exchange, and fails again when it is undone, leaves none: then nothing is served until other weights
are loaded.
"""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adjudge_server.background import in_daemon_thread
from adjudge_server.critic import Spare, WeightsLost
from adjudge_server.errors import (
    AdjudgeError,
    CriticFailure,
    DeadlineExceeded,
    WeightsRefused,
    WrongEpoch,
)
from adjudge_server.host_memory import give_back
from adjudge_server.judge import Judge
from adjudge_server.self_check import SelfCheck, check

logger = logging.getLogger(__name__)

Serve = Callable[[Judge[Any] | None], None]


@dataclass(frozen=True, slots=True)
class Moved:
    judge: Judge[Any]
    """Who answers from now on."""
    read_seconds: float
    pause_seconds: float
    """During which nothing was answered."""


class Mover:
    """Moves the weights of one critic, one call after the other."""

    def __init__(self, judge: Judge[Any], serve: Serve) -> None:
        """`serve` is called on the model's thread with who answers from then on, or None."""
        self._judge = judge
        self._serve = serve
        self._is_lost = False
        self._turn = asyncio.Lock()

    async def move(self, directory: Path, expected_epoch: int | None = None) -> Moved:
        """Raises WrongEpoch, WeightsRefused, NotReady (draining) or CriticFailure (the weights are
        lost). Cancelled before the exchange, it changes nothing; after that it is too late."""
        abandoned = threading.Event()
        # By itself, so that the next one waits until what was read is out of memory again.
        moving = asyncio.ensure_future(self._move(directory, expected_epoch, abandoned))
        try:
            return await asyncio.shield(moving)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    async def _move(
        self, directory: Path, expected_epoch: int | None, abandoned: threading.Event
    ) -> Moved:
        async with self._turn:
            _check_wanted(abandoned)
            self._check_epoch(expected_epoch)
            began = time.monotonic()
            spare = await in_daemon_thread(partial(self._read, directory))
            seconds = time.monotonic() - began
            begun = threading.Event()
            exchange = partial(self._exchange, spare, expected_epoch, abandoned, begun)
            try:
                judge, pause = await asyncio.wrap_future(self._judge.batcher.call(exchange))
            finally:
                # A watchdog may have failed the future while the exchange goes on, which may still
                # have to be undone. One that has not begun will find that it is not wanted.
                abandoned.set()
                if not begun.is_set():
                    spare.tensors = {}
                await asyncio.to_thread(give_back)
        logger.info(
            "%s: weights epoch %d: %s, read in %.1f s, a pause of %.2f s; %s",
            judge.card.name,
            judge.weights_epoch,
            judge.card.revision,
            seconds,
            pause,
            judge.self_check,
        )
        return Moved(judge, seconds, pause)

    def _read(self, directory: Path) -> Spare:
        try:
            return self._judge.critic.read_weights(directory)
        except Exception as error:  # a broken file raises whatever its reader raises
            logger.info("%s: weights are refused: %s", self._judge.card.name, error)
            refusal = _refused(error)
        gc.collect()  # half a model, in cycles
        give_back()
        raise refusal  # without the traceback, which would keep what was read

    def _check_epoch(self, expected: int | None) -> None:
        epoch = self._judge.weights_epoch
        if expected not in (None, epoch):
            raise WrongEpoch(
                f"the weights epoch is {epoch}",
                field="expected_epoch",
                expected=expected,
                actual=epoch,
            )

    def _exchange(
        self,
        spare: Spare,
        expected_epoch: int | None,
        abandoned: threading.Event,
        begun: threading.Event,
    ) -> tuple[Judge[Any], float]:
        """On the model's thread."""
        begun.set()
        try:
            _check_wanted(abandoned)
            # One that a watchdog gave up may have ended while these were read.
            self._check_epoch(expected_epoch)
            return self._exchanged(spare)
        finally:
            spare.tensors = {}  # futures, in cycles with each other, would keep them

    def _exchanged(self, spare: Spare) -> tuple[Judge[Any], float]:
        began = time.monotonic()
        critic, batcher = self._judge.critic, self._judge.batcher
        try:
            critic.exchange(spare)
            self_check = self._checked(spare)
        except WeightsLost as error:
            self._is_lost = True
            batcher.epoch += 1
            self._serve(None)
            logger.exception(
                "%s: the weights are lost; nothing is served until others are loaded",
                critic.card.name,
            )
            raise CriticFailure("the weights are lost: load others") from error
        self._is_lost = False
        batcher.epoch += 1
        self._judge = self._judge.moved(self_check, batcher.epoch)
        self._serve(self._judge)
        return self._judge, time.monotonic() - began

    def _checked(self, spare: Spare) -> SelfCheck:
        """The first questions, to new weights; the old ones are back if they are not well."""
        critic = self._judge.critic
        try:
            return check(critic)
        except Exception as error:
            if self._is_lost:  # there are no old ones
                raise WeightsLost("nor are the new weights well") from error
            logger.info("%s: weights are refused: %s", critic.card.name, error)
            critic.exchange(spare)
            raise _refused(error) from error


def _check_wanted(abandoned: threading.Event) -> None:
    if abandoned.is_set():
        raise DeadlineExceeded("nobody waits for these weights any more; they were not loaded")


def _refused(error: Exception) -> AdjudgeError:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return WeightsRefused(" ".join(f"{kind}{error}".split()), field="path")
