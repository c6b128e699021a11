"""What is read off the server when Prometheus asks, rather than counted as it happens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from adjudge_server.caches import CacheUse, Memory
from adjudge_server.critic import CriticCard
from adjudge_server.observing.judgements import Judgements, Key, OfTemplate
from adjudge_server.templates import Kind

NOTHING = Memory()
LABELS = ["model", "template", "kind"]


@dataclass(frozen=True, slots=True)
class LiveCritic:
    """One critic at one moment."""

    name: str = ""
    card: CriticCard | None = None
    """None while it does not answer; so is the epoch."""
    epoch: int | None = None
    queue_tokens: int = 0
    max_queue_tokens: int = 0
    memory: Memory = NOTHING

    @property
    def caches(self) -> dict[str, CacheUse]:
        return {"prefixes": self.memory.prefixes, "features": self.memory.features}


@dataclass(frozen=True, slots=True)
class Live:
    """A server at one moment."""

    critics: tuple[LiveCritic, ...] = ()
    open_critiques: int = 0
    open_requests: int = 0
    open_bytes: int = 0
    """Of requests at work, as `max_open_bytes` counts them."""
    num_tasks: int = 0
    """Of the event loop."""
    pictures: CacheUse = NOTHING.features
    """Retained to be named, for whichever critic."""

    @property
    def is_serving(self) -> bool:
        """Whether every critic is."""
        return bool(self.critics) and all(critic.card is not None for critic in self.critics)


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
        yield _gauge("serving", "1 while all critics have weights at work.", int(live.is_serving))
        yield from _of_critics(live)
        yield _gauge("open_critiques", "Critiques that are being written.", live.open_critiques)
        yield _gauge("open_requests", "Requests at work.", live.open_requests)
        yield _gauge("open_bytes", "Bytes that they hold, pictures decoded.", live.open_bytes)
        yield _gauge("tasks", "Of the event loop; the same whenever it is idle.", live.num_tasks)
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


def _of_critics(live: Live) -> Iterator[Metric]:
    def gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"adjudge_{name}", help_text, labels=labels or ["model"])

    labels = ("name", "family", "dtype", "device", "fingerprint")
    models = gauge("model", "Always 1; the labels say what is served.", *labels)
    serving = gauge("critic_serving", "1 while this critic has weights at work.")
    epochs = gauge("weights_epoch", "Of the weights at work.")
    tokens = gauge("queue_tokens", "Tokens that wait for the critic.")
    most = gauge("queue_max_tokens", "Tokens that may.")
    for critic in live.critics:
        serving.add_metric([critic.name], int(critic.card is not None))
        if (card := critic.card) is not None:
            models.add_metric([getattr(card, label) for label in labels], 1)
        if critic.epoch is not None:
            epochs.add_metric([critic.name], critic.epoch)
        tokens.add_metric([critic.name], critic.queue_tokens)
        most.add_metric([critic.name], critic.max_queue_tokens)
    yield from (models, serving, epochs, tokens, most)


def _of_caches(live: Live) -> Iterator[Metric]:
    labels = ["model", "cache"]
    hits = CounterMetricFamily(
        "adjudge_cache_hits", "What was looked for and remembered.", labels=labels
    )
    misses = CounterMetricFamily(
        "adjudge_cache_misses", "What was looked for and not remembered.", labels=labels
    )
    size = GaugeMetricFamily("adjudge_cache_bytes", "What is remembered now.", labels=labels)
    tokens = CounterMetricFamily(
        "adjudge_prefix_tokens",
        "Tokens of prompts that were remembered (reused), and that the model ran (computed).",
        labels=["model", "source"],
    )
    caches = [(c.name, cache, use) for c in live.critics for cache, use in c.caches.items()]
    for model, cache, use in [*caches, ("", "pictures", live.pictures)]:
        hits.add_metric([model, cache], use.hits)
        misses.add_metric([model, cache], use.misses)
        size.add_metric([model, cache], use.nbytes)
    for critic in live.critics:
        tokens.add_metric([critic.name, "reused"], critic.memory.reused_tokens)
        tokens.add_metric([critic.name, "computed"], critic.memory.computed_tokens)
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
