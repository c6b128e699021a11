"""Long runs: `python -m tests.server.fuzz --requests 1000000 [--seed N] [--seconds N]`.

Most requests go to two fake critics and an ensemble of them, one of a hundred to the embedded
critic; both servers may load weights.
Exits with 1, having kept what it found in the corpus, where a request was answered badly, weights
came from where they may not, a server died or complained in its log, or its memory, threads or
files grew.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.server.fuzz.growth import GROWTH, has_grown, medians
from tests.server.fuzz.mutation import Mutator
from tests.server.fuzz.running import Found, forever, keep, send
from tests.server.fuzz.surface import MODELS, SHARES, Sent, seeds
from tests.server.fuzz.weights import Weights, lay_out
from tests.server.watched import MIB, Watched, watched

FLAGS = (
    "--max-retained-bytes",
    str(16 * MIB),
    "--max-prefix-bytes",
    str(16 * MIB),
    "--max-feature-bytes",
    str(16 * MIB),
    "--max-message-bytes",
    "4194304",
    "--max-critique-tokens",
    "32",
    "--enable-admin",
)
ROUND = 5_000
"""Requests between two looks at the servers."""
EMBEDDED_SHARE = 100
"""One of so many requests goes to the embedded critic."""


@dataclass
class Subject:
    """A server, and what was seen of it."""

    name: str
    server: Watched
    states: list[tuple[int, int, int]] = field(default_factory=list)
    """Bytes of memory, threads, files."""

    def look(self) -> str:
        server = self.server
        self.states.append((server.resident_bytes(), server.threads(), server.files()))
        memory, threads, num_files = self.states[-1]
        return f"{self.name}: {memory // MIB} MiB, {threads} threads, {num_files} files"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights = lay_out(folder / "weights")
        flags = (*FLAGS, "--weights-dir", str(weights.root))
        (folder / "models.toml").write_text(MODELS)
        # What is free inside of glibc's arenas would count as held, and grows for long.
        os.environ.update(MALLOC_ARENA_MAX="1", MALLOC_TRIM_THRESHOLD_=str(MIB // 8))
        subjects = [
            Subject(name, stack.enter_context(watched(folder / name, *chosen, *flags)))
            for name, chosen in (
                ("fake", ("--models", str(folder / "models.toml"))),
                ("embedded", ()),
            )
        ]
        source = forever(Mutator(options.seed, seeds(weights), SHARES).request)
        num_problems = _run(subjects, source, weights, options.requests, options.seconds)
        # All of them, also if the first one failed.
        failed = [_has_failed(subject) for subject in subjects]
    print(f"{num_problems} problems", flush=True)
    return int(bool(num_problems) or any(failed))


def _run(
    subjects: Sequence[Subject],
    source: Iterator[Sent],
    weights: Weights,
    num_requests: int,
    seconds: float,
) -> int:
    """The number of requests that were answered badly."""
    began, num_problems = time.monotonic(), 0
    done, codes = 0, Counter[str]()
    while done < num_requests and time.monotonic() - began < seconds:
        if not all(subject.server.is_alive() for subject in subjects):
            print("a server died")
            break
        wanted = list(itertools.islice(source, min(ROUND, num_requests - done)))
        few = wanted[::EMBEDDED_SHARE]
        del wanted[::EMBEDDED_SHARE]
        for found in asyncio.run(_round(subjects, (wanted, few), weights)):
            for bad, case in found.problems[:20]:
                print(f"{bad[:200]}\n    {keep(case)}", flush=True)
            num_problems += len(found.problems)
            done += found.num_requests
            codes += found.codes
        speed = done / (time.monotonic() - began)
        looks = "; ".join(subject.look() for subject in subjects)
        print(f"{done} requests, {speed:.0f}/s, {dict(codes)}, {looks}", flush=True)
    return num_problems


async def _round(
    subjects: Sequence[Subject], requests: Sequence[Sequence[Sent]], weights: Weights
) -> list[Found]:
    return await asyncio.gather(
        *(
            send(subject.server.address, cases, weights)
            for subject, cases in zip(subjects, requests, strict=True)
        )
    )


def _has_failed(subject: Subject) -> bool:
    """Whether it died, complained or grew, with what is known of it."""
    if not subject.server.is_alive():
        print(f"{subject.name} is dead\n{subject.server.log.read_text()[-10_000:]}")
        return True
    complaints = subject.server.complaints()
    print("\n".join(complaints[:50]))
    memory, threads, files = zip(*subject.states, strict=True)
    for name, values in (
        ("MiB", [m / MIB for m in memory]),
        ("threads", threads),
        ("files", files),
    ):
        tenths = " ".join(f"{value:.0f}" for value in medians(values))
        print(f"{subject.name}: {name}, medians of tenths: {tenths}")
    grown = has_grown(memory, GROWTH) or any(has_grown(v, 1.0, 2) for v in (threads, files))
    print(f"{subject.name}: {len(complaints)} complaints" + ", and it grew" * grown)
    return bool(complaints) or grown


if __name__ == "__main__":
    sys.exit(main())
