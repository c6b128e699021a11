"""What the critic's answers look like, template by template: so that drift shows before the run is
spoiled. Thread-safe."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp

from adjudge_server.observing.exchange import Exchange
from adjudge_server.observing.histogram import MASSES, NATS, Histogram, reward_bounds, steps
from adjudge_server.observing.window import Window
from adjudge_server.readout import Comparison, Reward
from adjudge_server.templates import Kind, Template

Key = tuple[str, str, str]
"""A model's name, a template's, and its kind."""


@dataclass(slots=True)
class OfTemplate:
    """Since the server started, but for the window."""

    kind: Kind
    values: Histogram
    """Rewards, in the template's units, or margins, nats."""
    window: Window
    valid_masses: Histogram
    opening_masses: Histogram
    """As probabilities. Both are empty where the critic is a scalar head."""
    preferences: Histogram
    biases: Histogram
    """Position biases, nats; like what follows, of pairs that were read in both orders."""
    num_agreeing: int = 0
    """Pairs whose verdict is the same in both orders."""
    num_flipped: int = 0
    num_within_noise: int = 0

    @classmethod
    def of(
        cls, template: Template, extent: tuple[float, float] | None, clock: Callable[[], float]
    ) -> "OfTemplate":
        """`extent`: of its rewards, where the template does not say."""
        return cls(
            kind=template.kind,
            values=Histogram(reward_bounds(template) if extent is None else steps(*extent)),
            window=Window(clock),
            valid_masses=Histogram(MASSES),
            opening_masses=Histogram(MASSES),
            preferences=Histogram(steps(0.0, 1.0)),
            biases=Histogram(NATS),
        )

    def add(self, outcome: Reward | Comparison) -> None:
        window = self.window.now
        value = outcome.reward if isinstance(outcome, Reward) else outcome.margin
        self.values.add(value)
        window.values.add(value)
        if outcome.valid_mass is not None:
            self.valid_masses.add(outcome.valid_mass)
            window.valid_masses.add(outcome.valid_mass)
        if outcome.opening_mass is not None:
            opening_mass = exp(outcome.opening_mass)
            self.opening_masses.add(opening_mass)
            window.opening_masses.add(opening_mass)
        if isinstance(outcome, Comparison):
            self._add_comparison(outcome)

    def _add_comparison(self, comparison: Comparison) -> None:
        self.preferences.add(comparison.preference)
        self.num_within_noise += comparison.within_noise
        if comparison.position_bias is None:
            return
        self.biases.add(comparison.position_bias)
        if abs(comparison.position_bias) > abs(comparison.margin):
            self.num_flipped += 1
        else:
            self.num_agreeing += 1


class Judgements:
    """A watcher (see `watching`). Templates are the server's own, so there are never many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._templates: dict[Key, OfTemplate] = {}

    def __call__(self, exchange: Exchange) -> None:
        template = exchange.template
        judged = [i.outcome for i in exchange.items if isinstance(i.outcome, Reward | Comparison)]
        if template is None or not judged:
            return
        key = (exchange.model, template.name, template.kind.value)
        with self._lock:
            if key not in self._templates:
                self._templates[key] = OfTemplate.of(template, exchange.reward_range, self._clock)
            for outcome in judged:
                self._templates[key].add(outcome)

    @contextmanager
    def held(self) -> Iterator[dict[Key, OfTemplate]]:
        """What there is; nothing is added within."""
        with self._lock:
            yield self._templates
