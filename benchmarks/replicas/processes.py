"""Servers in processes of their own, each always on the same ports of this machine."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

START_SECONDS = 300.0
"""On a machine that does much else besides."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Replica:
    """Starts when it is made."""

    def __init__(self, flags: Sequence[str] = ()) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._metrics = f"127.0.0.1:{free_port()}"
        self._flags = [*flags, "--listen", self.address, "--metrics-listen", self._metrics]
        self.serves = threading.Event()
        self.killed_at = 0.0
        self.away_seconds: list[float] = []
        """From a kill until it served again."""
        self._process = self._start()

    def kill(self) -> None:
        """SIGKILL, and a new start."""
        self.serves = threading.Event()
        self.killed_at = time.monotonic()
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def caches(self) -> "Caches":
        """What its metrics say about its caches since it started."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=30) as answer:
            return Caches.of(answer.read().decode())

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "adjudge_server", *self._flags, "--log-level", "error"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        threading.Thread(target=self._wait, args=(process, self.serves), daemon=True).start()
        return process

    def _wait(self, process: subprocess.Popen[str], serves: threading.Event) -> None:
        assert process.stdout is not None
        # Closed here, once the process has ended: a pipe that nobody reads could fill.
        with process.stdout as lines:
            for line in lines:
                if line.startswith("serving "):
                    if self.killed_at:
                        self.away_seconds.append(time.monotonic() - self.killed_at)
                    serves.set()


@contextmanager
def replicas(count: int, flags: Sequence[str] = ()) -> Iterator[list[Replica]]:
    """That many, all serving. Raises TimeoutError where one does not get there."""
    started: list[Replica] = []
    try:
        for _ in range(count):
            started.append(Replica(flags))
        for replica in started:
            if not replica.serves.wait(START_SECONDS):
                raise TimeoutError(f"a server did not serve within {START_SECONDS:.0f} s")
        yield started
    finally:
        for replica in started:
            replica.end()


@dataclass
class Killer:
    """Kills the one of some replicas that was not killed for longest, every few seconds; but never
    the last that serves: then it waits until another does."""

    replicas: Sequence[Replica]
    every_seconds: float
    num_kills: int = 0
    num_postponed: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._kill)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _kill(self) -> None:
        while not self._over.wait(self.every_seconds):
            waited = False
            while len(serving := [r for r in self.replicas if r.serves.is_set()]) < 2:
                waited = True
                if self._over.wait(0.1):
                    return
            self.num_postponed += waited
            min(serving, key=lambda replica: replica.killed_at).kill()
            self.num_kills += 1


@dataclass(frozen=True, slots=True)
class Caches:
    """Counts of one or several servers."""

    pictures_computed: float = 0
    """Those that went through the vision tower: their features were looked for and not there. While
    a prompt's prefix is remembered, nobody looks for them."""
    prefix_tokens_reused: float = 0
    prefix_tokens_computed: float = 0

    @classmethod
    def of(cls, metrics: str) -> "Caches":
        """From Prometheus' text format, all models together. Raises KeyError where a counter is
        missing."""
        found: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(metrics):
            for sample in family.samples:
                for label in ("cache", "source"):
                    key = (sample.name, sample.labels.get(label, ""))
                    found[key] = found.get(key, 0) + sample.value
        return cls(
            found["adjudge_cache_misses_total", "features"],
            found["adjudge_prefix_tokens_total", "reused"],
            found["adjudge_prefix_tokens_total", "computed"],
        )

    def __add__(self, other: "Caches") -> "Caches":
        return Caches(*(a + b for a, b in zip(self.counts(), other.counts(), strict=True)))

    def __sub__(self, other: "Caches") -> "Caches":
        return Caches(*(a - b for a, b in zip(self.counts(), other.counts(), strict=True)))

    def counts(self) -> tuple[float, float, float]:
        return self.pictures_computed, self.prefix_tokens_reused, self.prefix_tokens_computed

    @property
    def prefix_rate(self) -> float:
        """Of the tokens that prompts begin with, those that were remembered; NaN of none."""
        asked = self.prefix_tokens_reused + self.prefix_tokens_computed
        return self.prefix_tokens_reused / asked if asked else float("nan")
