"""No more calls in flight than the client may make; waiting for one is part of the call."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from adjudge_reranker import AsyncRewardClient, DeadlineExceeded, RetryPolicy, RewardClient
from tests.reranker.scripted import ScriptedService, busy, good_scores


class Meter:
    """A step that counts how many calls are at the server at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, request, context):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1
        return good_scores(request, context)


def test_threads_share_the_bound(script: ScriptedService) -> None:
    meter = Meter()
    script.plan(*[meter] * 32)
    with RewardClient(script.address, max_in_flight=3) as client, ThreadPoolExecutor(32) as pool:
        texts = ["x" * number for number in range(32)]
        rewards = list(pool.map(lambda text: client.score("Why?", [text]).rewards[0], texts))
    assert rewards == [float(number) for number in range(32)]
    assert meter.most == 3


def test_tasks_share_the_bound(script: ScriptedService) -> None:
    meter = Meter()
    script.plan(*[meter] * 16)

    async def ask() -> list:
        async with AsyncRewardClient(script.address, max_in_flight=3) as client:
            return await asyncio.gather(*[client.score("Why?", ["abc"]) for _ in range(16)])

    assert [result.rewards for result in asyncio.run(ask())] == [(3.0,)] * 16
    assert meter.most == 3


def test_a_call_that_never_got_its_turn_exceeds_its_deadline(script: ScriptedService) -> None:
    started, release = threading.Event(), threading.Event()

    def hang(request, context):
        started.set()
        release.wait(20)
        return good_scores(request, context)

    script.plan(hang)
    with RewardClient(script.address, max_in_flight=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.score, "Why?", ["abc"])
        try:
            assert started.wait(10)
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                client.score("Why?", ["abc"], timeout=0.3)
            assert 0.3 <= time.monotonic() - began < 5.0
        finally:
            release.set()
        assert first.result().rewards == (3.0,)
        assert client.score("Why?", ["abc"]).rewards == (3.0,)  # the slot is free again
    assert caught.value.metadata == {"max_in_flight": "1"}
    assert len(script.requests) == 2


def test_a_task_that_never_got_its_turn_exceeds_its_deadline(script: ScriptedService) -> None:
    release = threading.Event()
    script.plan(lambda request, context: release.wait(20) and good_scores(request, context))

    async def ask() -> None:
        async with AsyncRewardClient(script.address, max_in_flight=1) as client:
            first = asyncio.create_task(client.score("Why?", ["abc"]))
            while not script.requests:
                await asyncio.sleep(0.01)
            with pytest.raises(DeadlineExceeded) as caught:
                await client.score("Why?", ["abc"], timeout=0.3)
            assert caught.value.metadata == {"max_in_flight": "1"}
            release.set()
            assert (await first).rewards == (3.0,)
            assert (await client.score("Why?", ["abc"])).rewards == (3.0,)

    try:
        asyncio.run(ask())
    finally:
        release.set()


def test_a_call_that_pauses_before_it_is_repeated_leaves_its_turn_to_others(
    script: ScriptedService,
) -> None:
    script.plan(busy(retry_after=1.0))
    retry = RetryPolicy(0.0, 0.0)
    with (
        RewardClient(script.address, max_in_flight=1, retry=retry) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        paused = pool.submit(client.score, "Why?", ["abc"])
        while not script.requests:
            time.sleep(0.01)
        assert client.score("Why?", ["abcd"], timeout=0.9).rewards == (4.0,)
        assert paused.result().rewards == (3.0,)


def test_an_open_critique_does_not_keep_others_from_their_turn(script: ScriptedService) -> None:
    with RewardClient(script.address, max_in_flight=1, timeout=10.0) as client:
        events = client.critique("Why?", ["a"])
        next(events)
        assert client.score("Why?", ["abc"]).rewards == (3.0,)
        assert len(list(events)) == 3


@pytest.mark.parametrize("client", [RewardClient, AsyncRewardClient])
def test_a_client_that_may_make_no_call_is_refused(client: type) -> None:
    with pytest.raises(ValueError, match="max_in_flight"):
        client(max_in_flight=0)
