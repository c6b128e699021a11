"""Long runs: `python -m tests.server.fuzz --requests 1000000 [--seed N] [--seconds N]`.

Exits with 1, having kept what it found in the corpus, where a request was answered badly, the
server died or complained in its log, or its memory, threads or files grew.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.server.fuzz.mutation import Mutator
from tests.server.fuzz.running import Found, forever, keep, send
from tests.server.fuzz.surface import seeds
from tests.server.watched import MIB, Watched, watched

FLAGS = (
    "--critic",
    "fake",
    "--max-retained-bytes",
    str(16 * MIB),
    "--max-message-bytes",
    "4194304",
)
ROUND = 5_000
"""Requests between two looks at the server."""
GROWTH = 1.05
"""What the end may have of the most in the first half. Memory grows in steps, when a request comes
that is larger than all before."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder) / "log", *FLAGS) as server:
        return _run(server, options.requests, options.seconds, options.seed)


def _run(server: Watched, num_requests: int, seconds: float, seed: int) -> int:
    source = forever(Mutator(seed, seeds()).request)
    total, began, num_problems = Found(), time.monotonic(), 0
    states: list[tuple[int, int, int]] = []
    while total.num_requests < num_requests and time.monotonic() - began < seconds:
        if not server.is_alive():
            print("the server died")
            break
        wanted = min(ROUND, num_requests - total.num_requests)
        found = asyncio.run(send(server.address, itertools.islice(source, wanted)))
        for bad, case in found.problems[:20]:
            print(f"{bad[:200]}\n    {keep(case)}", flush=True)
        num_problems += len(found.problems)
        total.num_requests += found.num_requests
        total.codes += found.codes
        state = (server.resident_bytes(), server.threads(), server.files())
        states.append(state)
        speed = total.num_requests / (time.monotonic() - began)
        print(
            f"{total.num_requests} requests, {speed:.0f}/s, {dict(total.codes)},"
            f" {state[0] // MIB} MiB, {state[1]} threads, {state[2]} files",
            flush=True,
        )
    return _verdict(server, states, num_problems)


def _verdict(server: Watched, states: Sequence[tuple[int, int, int]], num_problems: int) -> int:
    if not server.is_alive():
        return 1
    complaints = server.complaints()
    print("\n".join(complaints[:50]))
    halves = states[: len(states) // 2], states[len(states) // 2 :]
    for kind, name in enumerate(("memory", "threads", "files")):
        first, last = (max((state[kind] for state in half), default=0) for half in halves)
        print(f"{name}: {first} at most in the first half, {last} in the second")
    ended, most = states[-1], [max(values) for values in zip(*(halves[0] or states), strict=True)]
    # A connection more or less may be open at the moment of a look.
    grown = ended[0] > GROWTH * most[0] or ended[1] > most[1] + 2 or ended[2] > most[2] + 2
    print(f"{num_problems} problems, {len(complaints)} complaints" + ", and it grew" * grown)
    return int(bool(num_problems or complaints or grown))


if __name__ == "__main__":
    sys.exit(main())
