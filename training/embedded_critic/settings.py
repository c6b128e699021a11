"""Everything that decides what a training run comes to."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what comes out, but for the machine's rounding."""

    out: Path
    seed: int = 1
    processes: int = 2
    port: int = 0
    """At which the processes meet, on loopback; 0 for a free one."""
    tower_steps: int = 2800
    pool_views: int = 36000
    steps: int = 4000
    rows: int = 3  # per process and step
    lanes: int = 6
    lane: int = 112
    peak_rate: float = 1.5e-3
    save_every: int = 100
