"""A line of the log for every minute in which there was work: enough to see a run go wrong without
any other tool."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from adjudge_server.caches import CacheUse
from adjudge_server.observing.exchange import OK, Exchange
from adjudge_server.observing.judgements import Judgements
from adjudge_server.observing.live import Live
from adjudge_server.observing.logs import FIELDS
from adjudge_server.observing.request_log import RequestLog

logger = logging.getLogger(__name__)

MINUTE = 60.0


class MinuteLog:
    """A watcher (see `watching`), that writes from `start` to `stop`."""

    def __init__(
        self, judgements: Judgements, requests: RequestLog, look: Callable[[], Live]
    ) -> None:
        self._judgements = judgements
        self._requests = requests
        self._look = look
        self._timer: asyncio.TimerHandle | None = None
        self._num_requests = 0
        self._failures: Counter[str] = Counter()
        self._num_untold = 0
        self._caches: dict[str, CacheUse] = {}

    def __call__(self, exchange: Exchange) -> None:
        self._num_requests += 1
        if exchange.outcome != OK:
            self._failures[exchange.outcome] += 1
        for outcome, number in exchange.outcomes().items():
            if outcome != OK:
                self._failures[outcome] += number

    def start(self) -> None:
        """In the event loop that runs."""
        self._timer = asyncio.get_running_loop().call_later(MINUTE, self._tick)

    def stop(self) -> None:
        """Writes what there is since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self.tell()

    def _tick(self) -> None:
        self.tell()
        self.start()

    def tell(self) -> None:
        """Of what came since the last time, if anything did."""
        if not self._num_requests:
            return
        live = self._look()
        caches = _caches(live)
        fields = {
            "requests": self._num_requests,
            "failures": dict(self._failures),
            "queue_tokens": sum(critic.queue_tokens for critic in live.critics),
            "hit_rate": self._hit_rates(caches),
            "untold": self._requests.num_untold - self._num_untold,
        }
        epochs = {c.name: c.epoch for c in live.critics if c.epoch is not None}
        if epochs:
            fields["epoch"] = epochs if len(live.critics) > 1 else next(iter(epochs.values()))
        logger.info("the last minute", extra={FIELDS: fields})
        self._tell_judgements()
        self._num_requests, self._num_untold = 0, self._requests.num_untold
        self._failures.clear()
        self._caches = caches

    def _tell_judgements(self) -> None:
        with self._judgements.held() as templates:
            found = {key: of.window.last(MINUTE) for key, of in templates.items()}
        for (model, name, kind), judged in found.items():
            if not judged.values.n:
                continue
            fields = {
                "model": model,
                "template": name,
                "kind": kind,
                "n": judged.values.n,
                "mean": judged.values.mean,
                "sd": judged.values.deviation,
            }
            if judged.valid_masses.n:
                fields["valid_mass"] = judged.valid_masses.mean
            logger.info("the last minute's judgements", extra={FIELDS: fields})

    def _hit_rates(self, caches: dict[str, CacheUse]) -> dict[str, float]:
        """Since the last time; of those that were asked."""
        rates = {}
        for name, use in caches.items():
            before = self._caches.get(name, CacheUse())
            hits, misses = use.hits - before.hits, use.misses - before.misses
            if hits + misses:
                rates[name] = round(hits / (hits + misses), 3)
        return rates


def _caches(live: Live) -> dict[str, CacheUse]:
    """Of all critics together."""
    found = {"pictures": live.pictures}
    for critic in live.critics:
        for name, use in critic.caches.items():
            all_ = found.get(name, CacheUse())
            found[name] = CacheUse(
                all_.hits + use.hits, all_.misses + use.misses, all_.nbytes + use.nbytes
            )
    return found
