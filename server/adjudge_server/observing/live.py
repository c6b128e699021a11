"""What is read off the server when Prometheus asks, rather than counted as it happens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from adjudge_server.caches import CacheUse
from adjudge_server.critic import CriticCard
from adjudge_server.observing.judgements import Judgements, Key, OfTemplate
from adjudge_server.templates import Kind

LABELS = ["template", "kind"]


@dataclass(frozen=True, slots=True)
class Live:
    """A server at one moment."""

    card: CriticCard | None = None
    """None while nobody answers; so is the epoch."""
    epoch: int | None = None
    queue_tokens: int = 0
    max_queue_tokens: int = 0
    open_critiques: int = 0
    caches: dict[str, CacheUse] = field(default_factory=dict)
    reused_tokens: int = 0
    computed_tokens: int = 0


class LiveCollector(Collector):
    """Asks the server when it is asked."""

    def __init__(
        self, look: Callable[[], Live], audited: Callable[[], tuple[int, int]] | None
    ) -> None:
        """`look` is called from any thread; `audited` gives how many records of the audit were
        written, and how many were lost."""
        self._look = look
        self._audited = audited

    def collect(self) -> Iterator[Metric]:
        live = self._look()
        yield _gauge("serving", "1 while there are weights at work.", int(live.card is not None))
        if live.card is not None:
            model = GaugeMetricFamily(
                "adjudge_model",
                "Always 1; the labels say what is served.",
                labels=["name", "family", "dtype", "device"],
            )
            card = live.card
            model.add_metric([card.name, card.family, card.dtype, card.device], 1)
            yield model
        if live.epoch is not None:
            yield _gauge("weights_epoch", "Of the weights at work.", live.epoch)
        yield _gauge("queue_tokens", "Tokens that wait for the model.", live.queue_tokens)
        yield _gauge("queue_max_tokens", "Tokens that may.", live.max_queue_tokens)
        yield _gauge("open_critiques", "Critiques that are being written.", live.open_critiques)
        yield from _of_caches(live)
        if self._audited is not None:
            records = CounterMetricFamily(
                "adjudge_audit_records",
                "Records of the audit that were written, and that were lost.",
                labels=["result"],
            )
            for result, number in zip(("written", "lost"), self._audited(), strict=True):
                records.add_metric([result], number)
            yield records


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"adjudge_{name}", help_text, value=value)


def _of_caches(live: Live) -> Iterator[Metric]:
    hits = CounterMetricFamily(
        "adjudge_cache_hits", "What was looked for and remembered.", labels=["cache"]
    )
    misses = CounterMetricFamily(
        "adjudge_cache_misses", "What was looked for and not remembered.", labels=["cache"]
    )
    size = GaugeMetricFamily("adjudge_cache_bytes", "What is remembered now.", labels=["cache"])
    for name, use in live.caches.items():
        hits.add_metric([name], use.hits)
        misses.add_metric([name], use.misses)
        size.add_metric([name], use.nbytes)
    tokens = CounterMetricFamily(
        "adjudge_prefix_tokens",
        "Tokens of prompts that were remembered (reused), and that the model ran (computed).",
        labels=["source"],
    )
    tokens.add_metric(["reused"], live.reused_tokens)
    tokens.add_metric(["computed"], live.computed_tokens)
    yield from (hits, misses, size, tokens)


class JudgementCollector(Collector):
    """Distributions since the start, and the moments of the last ten minutes."""

    def __init__(self, judgements: Judgements) -> None:
        self._judgements = judgements

    def collect(self) -> Iterator[Metric]:
        with self._judgements.held() as templates:
            yield from _distributions(templates)
            yield from _orders(templates)
            yield from _windows(templates)


def _distributions(templates: dict[Key, OfTemplate]) -> list[Metric]:
    rewards = _histogram("reward", "Rewards, in the template's units.")
    margins = _histogram("margin", "Margins, nats; positive means first.")
    preferences = _histogram("preference", "P(first) + P(tie) / 2.")
    biases = _histogram("position_bias", "Position bias, nats; positive means for what is first.")
    valid = _histogram("valid_mass", "Probability of any well-formed answer.")
    opening = _histogram("opening_mass", "Probability of the template's opening.")
    for key, found in templates.items():
        values = rewards if found.kind is Kind.POINTWISE else margins
        values.add_metric(key, found.values.buckets(), found.values.sum)
        for family, distribution in (
            (preferences, found.preferences),
            (biases, found.biases),
            (valid, found.valid_masses),
            (opening, found.opening_masses),
        ):
            if distribution.count:
                family.add_metric(key, distribution.buckets(), distribution.sum)
    return [rewards, margins, preferences, biases, valid, opening]


def _histogram(name: str, help_text: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"adjudge_{name}", help_text, labels=LABELS)


def _orders(templates: dict[Key, OfTemplate]) -> list[Metric]:
    orders = CounterMetricFamily(
        "adjudge_orders",
        "Pairs read in both orders whose verdict stayed (agree) or followed the place (flip).",
        labels=[*LABELS, "verdict"],
    )
    noise = CounterMetricFamily(
        "adjudge_within_noise", "Pairs whose margin is under the noise floor.", labels=LABELS
    )
    for key, found in templates.items():
        if found.kind is Kind.PAIRWISE:
            orders.add_metric([*key, "agree"], found.num_agreeing)
            orders.add_metric([*key, "flip"], found.num_flipped)
            noise.add_metric(key, found.num_within_noise)
    return [orders, noise]


def _windows(templates: dict[Key, OfTemplate]) -> list[Metric]:
    def gauge(name: str, help_text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"adjudge_window_{name}", help_text, labels=LABELS)

    number = gauge("items", "Rewards or margins of the last ten minutes.")
    mean = gauge("mean", "Their mean.")
    deviation = gauge("sd", "Their standard deviation.")
    valid = gauge("valid_mass", "Mean probability of any well-formed answer.")
    opening = gauge("opening_mass", "Mean probability of the template's opening.")
    for key, found in templates.items():
        last = found.window.last()
        number.add_metric(key, last.values.n)
        if last.values.n:  # nothing has no mean, and 0 would look like one
            mean.add_metric(key, last.values.mean)
            deviation.add_metric(key, last.values.deviation)
        if last.valid_masses.n:
            valid.add_metric(key, last.valid_masses.mean)
        if last.opening_masses.n:
            opening.add_metric(key, last.opening_masses.mean)
    return [number, mean, deviation, valid, opening]
