"""What a run found, and where it ran."""

import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers
from benchmarks.engine.bars import BARS
from benchmarks.engine.timing import Spread


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured."""

    section: str
    what: str
    """Cold and warm say whether the picture is new to whoever is measured."""
    size: str
    """Of the picture in pixels; empty where there is none."""
    count: int
    """Responses, or comparisons."""
    value: Spread
    unit: str


@dataclass(slots=True)
class Results:
    environment: dict[str, str | int]
    rows: list[Row] = field(default_factory=list)
    bars: dict[str, float] = field(default_factory=dict)
    """By name; those that were not measured are not in it."""
    notes: list[str] = field(default_factory=list)

    def add(
        self, section: str, what: str, size: tuple[int, int] | None, count: int,
        values: list[float], unit: str = "s",
    ) -> None:  # fmt: skip
        shown = f"{size[0]}x{size[1]}" if size else ""
        self.rows.append(Row(section, what, shown, count, Spread.of(values), unit))

    def as_json(self) -> dict[str, object]:
        return {
            "bars": {bar.name: self.bars.get(bar.name) for bar in BARS},
            "environment": self.environment,
            "rows": [asdict(row) for row in self.rows],
            "notes": self.notes,
        }


def environment(threads: int, grid: str) -> dict[str, str | int]:
    on_gpu = torch.cuda.is_available()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": torch.cuda.get_device_name() if on_gpu else _cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": threads,
        "grid": grid,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
