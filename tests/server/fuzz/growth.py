"""Whether something grows steadily, as a leak does, and not by a chance maximum at a moment."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

GROWTH: Final = 1.05
"""Of memory, from the middle of a run to its end. A leak of 25 bytes a request is 12 % there, of a
server of 100 MiB and a million requests."""
TENTHS: Final = 10


def medians(values: Sequence[float]) -> list[float]:
    """Of each tenth, in their order; of fewer where there are fewer values."""
    parts = min(TENTHS, len(values))
    cuts = [len(values) * part // max(1, parts) for part in range(parts + 1)]
    return [median(values[start:end]) for start, end in pairwise(cuts)]


def has_grown(values: Sequence[float], factor: float, slack: float = 0.0) -> bool:
    """Whether the last tenth lies above the fifth and sixth, long after caches are full, by more
    than `factor` and `slack`. Of fewer values than tenths nothing can be said: False."""
    found = medians(values)
    if len(found) < TENTHS:
        return False
    middle = max(found[TENTHS // 2 - 1 : TENTHS // 2 + 1])
    return found[-1] > factor * middle + slack
