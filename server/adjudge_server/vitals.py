"""Whether a critic that was well when it was loaded still is: watched from a thread of its own.

Four things can befall it. It fails: of several batches in a row nothing came. That alone proves
nothing, for one caller may send the same poison again and again; so it is asked the first question
of the self-check, and only if it fails at that, health says so, until it answers again. It hangs:
one pass of the model does not end. Or its thread has died. Then the server reports it, or exits.
Or its model runs elsewhere, and is away: it is asked again and again whether it is back, and then
the first question, before health says so.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Any

from adjudge_server.background import start_daemon_thread
from adjudge_server.batcher import Batcher
from adjudge_server.errors import CriticFailure

logger = logging.getLogger(__name__)

SUSPICIOUS = 3
"""Batches or functions in a row of which nothing came."""
PROBE_SECONDS = 5.0
"""Between the ends of two questions to a critic that fails."""
TICK_SECONDS = 0.25
BEAT_SECONDS = 2.0
"""Between two questions to a model elsewhere whether it is there."""
EXIT_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""


class State(Enum):
    WELL = "the critic is well"
    AWAY = "the critic's engine is away"
    FAILING = "the critic fails at whatever it is asked"
    STUCK = "the model's thread is stuck"
    DEAD = "the model's thread has died"


class Vitals:
    """Of one batcher, until `stop`."""

    def __init__(
        self,
        batcher: Batcher[Any],
        ask_first: Callable[[bool], None],
        tell: Callable[[], None],
        *,
        name: str = "",
        beat: Callable[[], None] | None = None,
        watchdog_seconds: float,
        exits: bool,
    ) -> None:
        """`ask_first` puts the first question on the model's thread and raises where it is not
        answered; its argument is whether to forget everything first. `tell` is called on this
        thread when `state` has changed. `name`: of the critic, for the log. `beat`, in a
        thread of its own, raises where the model, elsewhere, is away. `watchdog_seconds` 0: nothing
        ever counts as stuck."""
        self.state = State.WELL
        self._batcher = batcher
        self._ask_first = ask_first
        self._tell = tell
        self._name = name
        self._beat = beat
        self._beating: Future[None] | None = None
        """The question that is not answered yet."""
        self._beaten = time.monotonic()
        self._misses_beat = False
        self._watchdog_seconds = watchdog_seconds
        self._exits = exits
        self._probe: Future[None] | None = None
        self._probed = -PROBE_SECONDS
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vitals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for nothing that is asked: neither for the critic nor for a beat."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self._look()
            except Exception:  # whoever watches must go on
                logger.exception("the critic could not be looked after")

    def _look(self) -> None:
        if self._batcher.has_died:
            self._enter(State.DEAD)
        elif 0 < self._watchdog_seconds < self._batcher.busy_seconds:
            self._enter(State.STUCK)
        elif self.state is State.STUCK:
            self._batcher.resume()
            self._probe = None
            self._enter(State.WELL)
        else:
            self._look_for_failures()

    def _is_away(self) -> bool:
        """Also when it is back, until it has answered the first question again."""
        self._look_for_beat()
        if self._misses_beat:
            self._probe = None
            return True
        if self.state is not State.AWAY:
            return False
        if self._probe is None:
            self._probe = self._batcher.call(lambda: self._ask_first(False))
        elif self._probe.done() and self._probe.exception() is None:
            self._probe = None
            return False
        elif self._probe.done() and self._may_probe():
            self._probe, self._probed = None, time.monotonic()
        return True

    def _look_for_beat(self) -> None:
        if self._beat is None:
            return
        if self._beating is None:
            if time.monotonic() - self._beaten >= BEAT_SECONDS:
                self._beating = start_daemon_thread(self._beat, name="beat")
        elif self._beating.done():
            error = self._beating.exception()
            self._beating, self._beaten = None, time.monotonic()
            self._misses_beat = error is not None
            if error is not None and self.state is not State.AWAY:
                logger.warning("%s: %s", self._name, error)

    def _look_for_failures(self) -> None:
        if self._is_away():
            self._enter(State.AWAY)
        elif self._probe is not None:
            if not self._probe.done():
                return
            has_failed = self._probe.exception() is not None
            self._probe, self._probed = None, time.monotonic()
            self._enter(State.FAILING if has_failed else State.WELL)
        elif self._batcher.failures_in_a_row == 0:
            self._enter(State.WELL)
        elif self._batcher.failures_in_a_row >= SUSPICIOUS and self._may_probe():
            is_failing = self.state is State.FAILING
            self._probe = self._batcher.call(lambda: self._ask_first(is_failing))

    def _may_probe(self) -> bool:
        return time.monotonic() - self._probed >= PROBE_SECONDS

    def _enter(self, state: State) -> None:
        if state is self.state:
            return
        self.state = state
        if state is State.WELL:
            logger.warning("health: SERVING; %s again: %s", state.value, self._name)
        else:
            doing = f":\n{self._batcher.doing}" if state is State.STUCK else ""
            logger.error("health: NOT_SERVING; %s: %s%s", state.value, self._name, doing)
        if state in (State.STUCK, State.DEAD):
            if self._exits:
                _exit(f"{state.value}, and --on-stuck says exit")
            self._batcher.abandon(CriticFailure(state.value), refusal=state.value)
        self._tell()


def _exit(why: str) -> None:
    """Without a farewell: what hangs would wait for itself."""
    logger.critical("exit with status %d: %s", EXIT_STATUS, why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STATUS)
