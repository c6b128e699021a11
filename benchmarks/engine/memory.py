"""Peak memory of a batch, in a process of its own.

    python -m benchmarks.engine.memory --size 1024x768 --responses 64

Prints one JSON object: bytes of the process's peak above what it held before the batch, with a new
picture and with a known one. Linux: the peak is VmHWM, reset before each.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.questions import Size

CLEAR_PEAK = "5"
"""What resets VmHWM, in proc(5)."""


GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
"""glibc keeps freed blocks of up to 32 MB, depending on the sizes that came before: the peak would
tell the allocator's history. Set, every block from this size on goes back when it is freed."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes above those held before."""

    cold: int
    warm: int


def extra(size: Size, responses: int, *, is_tiny: bool = False) -> Peaks:
    """Runs this file as a program."""
    command = [sys.executable, "-m", "benchmarks.engine.memory"]
    command += ["--size", f"{size[0]}x{size[1]}", "--responses", str(responses)]
    command += ["--tiny"] if is_tiny else []
    said = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | GIVE_BACK
    ).stdout
    return Peaks(**json.loads(said.splitlines()[-1]))


def main() -> None:
    from benchmarks.engine.checkpoint import build, critic_of
    from benchmarks.engine.in_process import POINTWISE, Case, ask
    from benchmarks.engine.shapes import MEASURED, TINY

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", required=True)
    parser.add_argument("--responses", type=int, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    shape = TINY if options.tiny else MEASURED
    import torch

    torch.set_num_threads(1)
    critic = critic_of(build(shape), shape)
    critic.forward(ask(critic, Case((64, 64), POINTWISE, 1), seed=0))
    case = Case((width, height), POINTWISE, options.responses)
    items, others = ask(critic, case, seed=1), ask(critic, case, seed=1)
    cold = _peak(lambda: critic.forward(items))
    warm = _peak(lambda: critic.forward(others))
    print(json.dumps({"cold": cold, "warm": warm}))


def _peak(work: Callable[[], object]) -> int:
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would not count as extra when used again
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel does not tell {key}")


if __name__ == "__main__":
    main()
