"""What is counted as it happens, for Prometheus. One registry a server, none of the process's own.

Labels are names of RPCs, of models, of templates, of stages, and reasons of failures: all of them
the server's words. Nothing that a caller sends can make a series.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client import ProcessCollector as Process

from adjudge_server.observing.exchange import READ, Exchange

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
POWERS_OF_TWO = tuple(float(1 << i) for i in range(12))
TOKENS = tuple(float(1 << i) for i in range(4, 20))


class Metrics:
    """A watcher (see `watching`); its `batch` watches batchers, from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "adjudge_requests",
            "Requests that are over, by RPC and by outcome: OK, CANCELLED, or why they failed.",
            ["method", "outcome"],
            registry=registry,
        )
        self._items = Counter(
            "adjudge_items",
            "Candidates and pairs of requests that did not fail as a whole: OK, or why not.",
            ["method", "model", "template", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "adjudge_request_seconds",
            "From the first look at a request to the last of its answer.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "adjudge_stage_seconds",
            "Of a request: decode (pictures and prompt), prepare (tokens and tiles), queue (the"
            " item that waited longest), forward (the longest batch), critique (writing it).",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._input_tokens = Counter(
            "adjudge_input_tokens",
            "Tokens of everything that was asked, as if each item stood alone.",
            registry=registry,
        )
        self._computed_tokens = Counter(
            "adjudge_computed_tokens",
            "Tokens that went through the model for it; the rest was shared or remembered.",
            registry=registry,
        )
        self._batch_items = Histogram(
            "adjudge_batch_items",
            "Items of a batch.",
            ["model"],
            buckets=POWERS_OF_TWO,
            registry=registry,
        )
        self._batch_tokens = Histogram(
            "adjudge_batch_tokens",
            "Tokens of a batch, what its items share counted once.",
            ["model"],
            buckets=TOKENS,
            registry=registry,
        )
        self._forward_seconds = Histogram(
            "adjudge_forward_seconds",
            "Of one batch in the model; their number is that of batches.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._failed_batches = Counter(
            "adjudge_batches_failed",
            "Batches at which the critic failed.",
            ["model"],
            registry=registry,
        )
        Process(registry=registry)

    def __call__(self, exchange: Exchange) -> None:
        method = exchange.method
        self._requests.labels(method, exchange.outcome).inc()
        self._seconds.labels(method).observe(exchange.seconds)
        template = "" if exchange.template is None else exchange.template.name
        for outcome, number in exchange.outcomes().items():
            self._items.labels(method, exchange.model, template, outcome).inc(number)
        for stage in exchange.stages:
            if stage.name != READ:
                self._stages.labels(stage.name).observe(stage.ended - stage.began)
        work = exchange.work
        if work.inference_seconds:
            self._stages.labels("queue").observe(work.queue_seconds)
            self._stages.labels("forward").observe(work.inference_seconds)
        self._input_tokens.inc(work.input_tokens)
        self._computed_tokens.inc(work.computed_tokens)

    def batch(self, model: str, items: int, tokens: int, seconds: float, succeeded: bool) -> None:
        """One batch that went through the model of a critic, or failed there."""
        self._batch_items.labels(model).observe(items)
        self._batch_tokens.labels(model).observe(tokens)
        self._forward_seconds.labels(model).observe(seconds)
        self._failed_batches.labels(model).inc(not succeeded)
