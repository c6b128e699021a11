"""Seconds, and how they spread. CPU seconds on a CPU: wall time on shared cores means little."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one piece of work."""

    cpu: float
    """User and system time of this process and of those that were counted with it."""
    wall: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several measurements of one thing."""

    median: float
    lowest: float
    highest: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises ValueError for none."""
        if not values:
            raise ValueError("nothing was measured")
        return cls(statistics.median(values), min(values), max(values), len(values))


def timed(work: Callable[[], object], *, pids: Sequence[int] = ()) -> Seconds:
    """`pids`: processes that work for this one, such as a server; their children count too."""
    _wait_for_device()
    others = sum(map(tree_cpu_seconds, pids))
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    _wait_for_device()
    wall = time.perf_counter() - wall
    cpu = time.process_time() - cpu
    return Seconds(cpu + sum(map(tree_cpu_seconds, pids)) - others, wall)


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def tree_cpu_seconds(pid: int) -> float:
    """User and system time of a process, its threads, and all below it (Linux), in steps of a clock
    tick, 10 ms as a rule. What ended and was waited for counts too."""
    children = _children_by_parent()
    total, waiting = 0, [pid]
    while waiting:
        current = waiting.pop()
        fields = _stat(current)
        total += sum(map(int, fields[11:15])) if fields else 0
        waiting += children.get(current, [])
    return total / TICKS


def _children_by_parent() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    return children


def _stat(pid: int) -> list[str]:
    """What follows the name in /proc/PID/stat; nothing if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
