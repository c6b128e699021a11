"""One line of the log for each request that is over: who, what, how long, and what failed. Nothing
that a request said is in it: no texts, no pictures, no names that a caller made up but a checked
request id.

What went well is there at the level DEBUG, and so is what a busy server turns away, which would be
a flood and which the metrics count. What the caller got wrong is INFO, what is our fault is a
WARNING; of either no more than so many a second are written.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from adjudge_server.errors import CriticFailure, NotReady, QueueFull
from adjudge_server.observing.exchange import CANCELLED, OK, Exchange
from adjudge_server.observing.logs import FIELDS

logger = logging.getLogger(__name__)

MAX_PER_SECOND = 10
_QUIET = {OK, CANCELLED, QueueFull.reason, NotReady.reason}


class RequestLog:
    """A watcher (see `watching`)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_untold = 0
        """Lines that were too many."""
        self._clock = clock
        self._second = 0
        self._told: Counter[int] = Counter()
        """In this second, by level."""

    def __call__(self, exchange: Exchange) -> None:
        failures = {o: n for o, n in exchange.outcomes().items() if o != OK}
        level = _level(exchange.outcome, failures)
        if logger.isEnabledFor(level) and self._may_tell(level):
            logger.log(level, "request", extra={FIELDS: _fields(exchange, failures)})

    def _may_tell(self, level: int) -> bool:
        if level == logging.DEBUG:  # whoever wants all of them
            return True
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._told.clear()
        self._told[level] += 1
        is_too_many = self._told[level] > MAX_PER_SECOND
        self.num_untold += is_too_many
        return not is_too_many


def _level(outcome: str, failures: dict[str, int]) -> int:
    if CriticFailure.reason in (outcome, *failures):
        return logging.WARNING
    return logging.DEBUG if outcome in _QUIET else logging.INFO


def _fields(exchange: Exchange, failures: dict[str, int]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "outcome": exchange.outcome,
        "peer": exchange.peer,
        "seconds": round(exchange.seconds, 6),
        "items": len(exchange.items),
    }
    if exchange.model:
        fields["model"] = exchange.model
    if exchange.template is not None:
        fields["template"] = exchange.template.name
    if exchange.items:
        fields["epoch"] = exchange.epoch
    if failures:
        fields["failures"] = failures
    return fields
