"""A server is killed at random and started again while candidates are scored. Every candidate ends
with its true reward or a typed failure; none is lost, and the order is kept.

`ADJUDGE_SOAK_CANDIDATES=10000` scores that many.
"""

import asyncio
import os
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from adjudge_reranker import (
    AsyncRewardClient,
    Failure,
    RetryPolicy,
    RewardClient,
    RewardError,
    ScoreOutcome,
    to_image,
)

NUM_CANDIDATES = int(os.environ.get("ADJUDGE_SOAK_CANDIDATES", "1000"))
MIN_KILLS = 4
PER_PROMPT = 20
MAX_CANDIDATES = 8
"""That the killed server takes at a time, so that each prompt goes in three parts."""


class KilledServer:
    """A server in a process of its own, always on the same port."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.num_kills = 0
        self._process = self._start()
        self._stop = threading.Event()
        self._killer = threading.Thread(target=self._kill_at_random)

    def _start(self) -> subprocess.Popen[bytes]:
        flags = ["--critic", "fake", "--max-candidates", str(MAX_CANDIDATES)]
        command = [sys.executable, "-m", "adjudge_server", "--listen", self.address, *flags]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _kill_at_random(self) -> None:
        generator = random.Random(7)
        # A start takes a second or so; some lives are shorter than that.
        while not self._stop.wait(generator.uniform(0.5, 3.5)):
            self._process.kill()
            self._process.wait()
            self.num_kills += 1
            self._process = self._start()

    @contextmanager
    def killed_at_random(self) -> Iterator[None]:
        self._killer.start()
        try:
            yield
        finally:
            self._stop.set()
            self._killer.join()
            self._process.kill()
            self._process.wait()


def prompt_of(number: int) -> Sequence[object]:
    pixels = np.random.default_rng(number % 5).integers(0, 256, (48, 48), dtype=np.int64)
    return [to_image(pixels.astype(np.uint8)), f"Question {number}?"]


def candidates_of(number: int) -> list[str]:
    return [f"answer {index} to {number}" for index in range(PER_PROMPT)]


def outcomes(client: RewardClient, number: int) -> Sequence[ScoreOutcome]:
    try:
        return client.score(prompt_of(number), candidates_of(number), timeout=20.0).outcomes  # type: ignore[arg-type]
    except RewardError as error:
        return [Failure(error)] * PER_PROMPT


def check(judged: dict[int, Sequence[ScoreOutcome]], address: str) -> None:
    """Compares with what a server says that nobody disturbs."""
    num_rewards = 0
    with RewardClient(address) as quiet:
        for number, got in judged.items():
            true = quiet.score(prompt_of(number), candidates_of(number)).rewards  # type: ignore[arg-type]
            assert len(got) == len(true) == PER_PROMPT
            for outcome, right in zip(got, true, strict=True):
                if not isinstance(outcome, Failure):
                    assert outcome.reward == pytest.approx(right, abs=1e-9)
                    num_rewards += 1
                else:
                    assert type(outcome.error) is not RewardError
    failures = Counter(
        repr(outcome.error)
        for got in judged.values()
        for outcome in got
        if isinstance(outcome, Failure)
    )
    print(num_rewards, "rewards; failures:", failures)
    assert num_rewards


def test_threads_get_true_rewards_or_typed_failures(address: str) -> None:
    server = KilledServer()
    judged: dict[int, Sequence[ScoreOutcome]] = {}
    with (
        server.killed_at_random(),
        RewardClient(server.address, retry=RetryPolicy(max_backoff_seconds=0.5)) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        while len(judged) * PER_PROMPT < NUM_CANDIDATES or server.num_kills < MIN_KILLS:
            numbers = range(len(judged), len(judged) + 10)
            answers = threads.map(lambda number: outcomes(client, number), numbers)
            judged.update(zip(numbers, answers, strict=True))
    check(judged, address)


def test_with_a_second_server_no_candidate_waits_for_the_first(address: str) -> None:
    server = KilledServer()
    judged: dict[int, Sequence[ScoreOutcome]] = {}

    async def ask() -> None:
        async with AsyncRewardClient([server.address, address], timeout=20.0) as client:

            async def one(number: int) -> None:
                try:
                    result = await client.score(prompt_of(number), candidates_of(number))  # type: ignore[arg-type]
                    judged[number] = result.outcomes
                except RewardError as error:
                    judged[number] = [Failure(error)] * PER_PROMPT

            while len(judged) * PER_PROMPT < NUM_CANDIDATES or server.num_kills < 2:
                start = len(judged)
                await asyncio.gather(*[one(number) for number in range(start, start + 10)])
                await asyncio.sleep(0.05)

    with server.killed_at_random():
        asyncio.run(ask())
    check(judged, address)
