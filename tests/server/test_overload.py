"""More than a server can do, through a real channel, with a critic that takes its time. How much it
does of it, and how fast it refuses the rest, `python -m benchmarks.overload` measures."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from benchmarks.overload.load import (
    CANDIDATES,
    Call,
    ask,
    at_a_time,
    connections,
    content,
    numbers,
)

from adjudge_reranker import AsyncRewardClient
from adjudge_server.config import Config
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.loading import FAKE_SECONDS_PER_TOKEN, load_critic
from adjudge_server.serve import Server
from tests.conftest import running
from tests.server.test_service import busy, queued

QUEUE = 1000
"""Tokens; some six requests."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Two requests are a batch, which takes a tenth of a second."""
    config = Config(
        listen="127.0.0.1:0", critic="fake", max_queue_tokens=QUEUE, max_batch_tokens=350
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FAKE_SECONDS_PER_TOKEN, "0.0003")
        with running(config) as server:
            yield server


def run(server: Server, scenario: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(f"127.0.0.1:{server.port}"), 120.0))


async def greedy(stubs: Sequence[Any], seconds: float, in_flight: int = 40) -> list[Call]:
    """Many times what there is room for, asked again as soon as it is refused."""
    return await at_a_time(stubs, in_flight, seconds)


def served(calls: Sequence[Call]) -> float:
    """How many of them, as a share."""
    return sum(call.error is None for call in calls) / len(calls)


def test_everything_is_answered_or_told_when_to_come_back(server: Server) -> None:
    async def scenario(address: str) -> None:
        async with connections(address, 4) as stubs:
            alone = await ask(stubs[0])
            calls = await greedy(stubs, 2.0)
        answered = [call for call in calls if call.error is None]
        refused = [call for call in calls if call.error is not None]
        assert answered
        assert refused
        assert all(call.is_told_when for call in refused)
        assert {call.tokens for call in answered} == {alone.tokens}, "answered is answered whole"

    run(server, scenario)


def test_a_small_caller_beside_greedy_ones_is_served(server: Server) -> None:
    async def scenario(address: str) -> None:
        async with connections(address, 4) as (small, *stubs):
            crowd = asyncio.create_task(greedy(stubs, 3.0))
            await asyncio.sleep(0.5)
            calls = []
            while not crowd.done():
                calls.append(await ask(small, 1))
            crowded = await crowd
        # Now and then three greedy ones have filled the queue among them: who holds nothing may
        # take the last of the room.
        assert served(calls) > served(crowded) > 0

    run(server, scenario)


def test_clients_that_come_back_are_all_answered_in_the_end(server: Server) -> None:
    async def scenario(address: str) -> None:
        async with AsyncRewardClient(address, timeout=110.0, max_in_flight=64) as client:
            results = await asyncio.gather(
                *(client.score(*content(next(numbers))) for _ in range(4 * QUEUE // 170))
            )
        assert all(None not in result.rewards for result in results)
        assert all(len(result.rewards) == CANDIDATES for result in results)

    run(server, scenario)


def test_who_is_refused_again_and_again_is_no_longer_prepared(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    honest = FakeCritic._prepare

    def prepare(self: FakeCritic, query: Any) -> Any:
        prepared.append(query.group)
        return honest(self, query)

    monkeypatch.setattr(FakeCritic, "_prepare", prepare)

    async def scenario(address: str) -> None:
        async with connections(address, 1) as (stub,):
            with busy(server):
                waiting = [asyncio.create_task(ask(stub)) for _ in range(10)]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                while not queued(server):
                    await asyncio.sleep(0.01)
                refused = [await ask(stub) for _ in range(20)]
            answered = [call for call in await asyncio.gather(*waiting) if call.error is None]
        assert all(call.is_told_when for call in refused)
        assert answered
        assert len(set(prepared)) <= 10 + 1, "of the twenty at most the first"

    run(server, scenario)


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "a second"])
def test_what_a_token_cannot_take_is_refused(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv(FAKE_SECONDS_PER_TOKEN, seconds)
    with pytest.raises(ValueError):
        load_critic(Config(critic="fake"))


def test_the_numbers_do_not_depend_on_the_time_that_they_take() -> None:
    from tests.server.questions import score_query

    slow, fast = FakeCritic(seconds_per_token=1e-6), FakeCritic()
    for candidate in ("a", "b"):
        query = score_query(fast.card, "What is it?", candidate)
        (one,), (other,) = (c.forward(c.prepare([query])) for c in (slow, fast))  # type: ignore[arg-type]
        assert (one.answer_log_probs == other.answer_log_probs).all()
