"""Mean and spread over the last minutes: what a dashboard shows as drift. Not thread-safe."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan, sqrt

SLOT_SECONDS = 10.0
"""How finely time is cut: a window is right to within one slot."""
WINDOW_SECONDS = 600.0


@dataclass(slots=True)
class Moments:
    """Of numbers given one by one, or of several such sets put together: Welford's method and
    Chan's, which lose no digits where a mean is large and a spread is small.

    https://doi.org/10.1080/00401706.1962.10490022, https://doi.org/10.1080/00031305.1983.10483115
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared differences from the mean."""

    def add(self, value: float) -> None:
        self.n += 1
        difference = value - self.mean
        self.mean += difference / self.n
        self.squares += difference * (value - self.mean)

    def merge(self, other: "Moments") -> None:
        if not other.n:
            return
        n = self.n + other.n
        difference = other.mean - self.mean
        self.squares += other.squares + difference**2 * self.n * other.n / n
        self.mean += difference * other.n / n
        self.n = n

    @property
    def deviation(self) -> float:
        """Standard deviation of the set itself; NaN of nothing."""
        return sqrt(self.squares / self.n) if self.n else nan


@dataclass(slots=True)
class Judged:
    """Moments of what a template gave in some time."""

    values: Moments = field(default_factory=Moments)
    """Rewards, or margins."""
    valid_masses: Moments = field(default_factory=Moments)
    opening_masses: Moments = field(default_factory=Moments)
    """As probabilities."""

    def merge(self, other: "Judged") -> None:
        self.values.merge(other.values)
        self.valid_masses.merge(other.valid_masses)
        self.opening_masses.merge(other.opening_masses)


class Window:
    """`clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: deque[tuple[int, Judged]] = deque(maxlen=int(WINDOW_SECONDS / SLOT_SECONDS))

    @property
    def now(self) -> Judged:
        """The slot to add to."""
        number = int(self._clock() / SLOT_SECONDS)
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append((number, Judged()))
        return self._slots[-1][1]

    def last(self, seconds: float = WINDOW_SECONDS) -> Judged:
        """Everything of the last so many seconds, at most `WINDOW_SECONDS`."""
        oldest = int((self._clock() - seconds) / SLOT_SECONDS)
        total = Judged()
        for number, judged in self._slots:
            if number > oldest:
                total.merge(judged)
        return total
