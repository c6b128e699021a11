"""Adjudge through gRPC: a server in a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path

from benchmarks.engine.checkpoint import TEMPLATES
from benchmarks.engine.questions import PROMPT, picture
from benchmarks.engine.timing import Seconds, timed

from adjudge_reranker import RewardClient
from adjudge_reranker.types import ScoreResult

CLIENTS, RESPONSES = 8, 16
DIGIT = (28, 28)
"""Pixels of a picture that the embedded critic knows its way about."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is ready."""

    address: str
    pid: int


@contextmanager
def serving(*flags: str) -> Iterator[Served]:
    """Raises RuntimeError for a server that does not start."""
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line.startswith("serving "):
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            yield Served(line.strip().rpartition(" ")[2], server.pid)
        finally:
            server.terminate()


@contextmanager
def serving_checkpoint(directory: Path) -> Iterator[Served]:
    with (
        as_file(TEMPLATES) as templates,
        serving("--model", str(directory), "--templates", str(templates)) as served,
    ):
        yield served


def score(
    client: RewardClient, image: bytes, texts: Sequence[str], template: str, prompt: str = PROMPT
) -> ScoreResult:
    """Raises RuntimeError where a response got no reward."""
    result = client.score([prompt, image], texts, template=template, timeout=600)
    if None in result.rewards:
        raise RuntimeError(f"not all were judged: {result.outcomes}")
    return result


def scored(
    served: Served,
    client: RewardClient,
    image: bytes,
    texts: Sequence[str],
    template: str,
    prompt: str = PROMPT,
) -> Seconds:
    """Client and server together."""
    return timed(lambda: score(client, image, texts, template, prompt), pids=[served.pid])


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of several clients at a time."""

    rewards_per_second: float
    """By wall time."""
    rewards_per_cpu_second: float
    """Of server and clients together."""


def digits(number: int) -> list[str]:
    """What one request asks about, its first response to its last."""
    return [f"This is the digit {i}, seen {number} times." for i in range(RESPONSES)]


def embedded_throughput(served: Served, requests: int, *, is_warm: bool) -> Throughput:
    """Of clients that each send `requests`, one after the other, to the embedded critic. Warm: all
    about one picture that was sent before; cold: another one each time."""

    def ask(client: RewardClient, number: int) -> None:
        image = picture(DIGIT, 0 if is_warm else 1 + number)
        client.score([PROMPT, image], digits(number), timeout=60)

    with ExitStack() as stack:
        clients = [stack.enter_context(RewardClient(served.address)) for _ in range(CLIENTS)]
        for client in clients:  # each pays once for its connection
            ask(client, 10**6)
        seconds = timed(lambda: _at_once(clients, ask, requests), pids=[served.pid])
    rewards = CLIENTS * requests * RESPONSES
    return Throughput(rewards / seconds.wall, rewards / seconds.cpu)


def _at_once(
    clients: Sequence[RewardClient], ask: Callable[[RewardClient, int], None], requests: int
) -> None:
    def work(number: int) -> None:
        for request in range(requests):
            ask(clients[number], number * requests + request)

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(work, range(len(clients))))  # raises what a client raised
