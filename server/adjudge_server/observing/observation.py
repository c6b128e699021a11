"""Everything that watches a server, put together as its configuration says."""

import asyncio
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry

from adjudge_server.batcher import WatchBatch
from adjudge_server.config import Config
from adjudge_server.observing.audit import Audit
from adjudge_server.observing.audit_writer import AuditWriter
from adjudge_server.observing.endpoint import MetricsEndpoint
from adjudge_server.observing.judgements import Judgements
from adjudge_server.observing.live import JudgementCollector, Live, LiveCollector
from adjudge_server.observing.metrics import Metrics
from adjudge_server.observing.minute_log import MinuteLog
from adjudge_server.observing.request_log import RequestLog
from adjudge_server.observing.traces import Traces
from adjudge_server.observing.watching import Watch, Watcher


class Observation:
    """Of one server. `start`, then `stop`."""

    def __init__(self, config: Config, look: Callable[[], Live]) -> None:
        """`look` is called from any thread. Raises ValueError for an audit that cannot be written,
        or for traces that cannot be made."""
        self.metrics_port: int | None = None
        """The port that is scraped, once started; None where there is none."""
        self._metrics: Metrics | None = None
        self._address = config.metrics_listen
        self._endpoint: MetricsEndpoint | None = None
        judgements, requests = Judgements(), RequestLog()
        self._minutes = MinuteLog(judgements, requests, look)
        watchers: list[Watcher] = [judgements, requests, self._minutes]
        if config.traces:
            watchers.append(Traces())
        self._writer: AuditWriter | None = None
        if config.audit is not None:
            self._writer = AuditWriter(config.audit, config.max_audit_file_bytes)
            watchers.append(Audit(self._writer))
        self._registry = CollectorRegistry()
        if self._address is not None:
            metrics = Metrics(self._registry)
            watchers.append(metrics)
            self._metrics = metrics
            audited = None if self._writer is None else self._num_audited
            self._registry.register(LiveCollector(look, audited))
            self._registry.register(JudgementCollector(judgements))
        self.interceptor = Watch(watchers, is_audited=self._writer is not None)

    async def start(self) -> None:
        """Raises RuntimeError where the port for metrics cannot be bound."""
        if self._address is not None:
            self._endpoint = MetricsEndpoint(self._address, self._registry)
            self.metrics_port = self._endpoint.port
        self._minutes.start()

    async def stop(self) -> None:
        """When all requests are over; the last minute is told, the audit written."""
        self._minutes.stop()
        for closing in (self._writer, self._endpoint):
            if closing is not None:
                await asyncio.to_thread(closing.close)

    def batch_watcher(self, model: str) -> WatchBatch | None:
        """For the batcher of the critic of that name; None where nobody wants to know."""
        return None if self._metrics is None else partial(self._metrics.batch, model)

    def _num_audited(self) -> tuple[int, int]:
        assert self._writer is not None
        return self._writer.num_written, self._writer.num_lost
