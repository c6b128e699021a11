"""The asyncio client: the same values as the blocking one, in any event loop."""

import asyncio
import inspect
import pickle
import re
import threading

import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import (
    AsyncRewardClient,
    DeadlineExceeded,
    RequestRefused,
    RetryPolicy,
    RewardClient,
    ServerFault,
    ServerUnavailable,
)
from tests.conftest import SEVEN
from tests.reranker.scripted import ScriptedService, answer, busy, good_scores, unknown_image

PROMPT = [SEVEN, "What this image presents?"]
CANDIDATES = ["This is a handwritten number seven.", "A cross.", "word " * 40_000]
METHODS = pb.DESCRIPTOR.services_by_name["RewardService"].methods_by_name


@pytest.mark.parametrize("client", [RewardClient, AsyncRewardClient])
@pytest.mark.parametrize("rpc", METHODS)
def test_every_rpc_has_a_method(client: type, rpc: str) -> None:
    method = re.sub(r"^Get|Candidates$", "", rpc).lower()
    assert callable(getattr(client, method))


def test_both_clients_take_the_same_arguments() -> None:
    def signatures(client: type) -> dict[str, dict[str, inspect.Parameter]]:
        return {
            name: dict(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert signatures(RewardClient) == signatures(AsyncRewardClient)


@pytest.mark.parametrize("method", ["score", "compare", "critique"])
def test_every_field_of_a_request_can_be_given(method: str) -> None:
    fields = METHODS[f"{method.capitalize()}Candidates"].input_type.fields_by_name
    parameters = inspect.signature(getattr(RewardClient, method)).parameters
    assert set(fields) <= set(parameters)


def outcomes(result):
    """What can be compared: errors by what they say, without provenance's durations."""
    return [repr(outcome) for outcome in result.outcomes]


def test_both_clients_give_the_same_values(address: str) -> None:
    pairs = [(0, 1), (1, 2)]

    async def ask() -> tuple:
        async with AsyncRewardClient(address) as client:
            scores = await client.score(PROMPT, CANDIDATES, include_distribution=True)
            comparisons = await client.compare(PROMPT, CANDIDATES, pairs)
            events = [event async for event in client.critique(PROMPT, CANDIDATES)]
            return scores, comparisons, events, await client.model()

    scores, comparisons, events, model = asyncio.run(ask())
    with RewardClient(address) as client:
        assert outcomes(scores) == outcomes(
            client.score(PROMPT, CANDIDATES, include_distribution=True)
        )
        assert scores.rewards[2] is None
        assert outcomes(comparisons) == outcomes(client.compare(PROMPT, CANDIDATES, pairs))
        blocking = list(client.critique(PROMPT, CANDIDATES))
        assert [repr(event) for event in events[:-1]] == [repr(event) for event in blocking[:-1]]
        assert type(events[-1]) is type(blocking[-1])
        assert model == client.model()


def test_one_client_serves_one_event_loop_after_another(address: str) -> None:
    client = AsyncRewardClient(address)

    async def ask() -> float | None:
        return (await client.score("Why?", ["so"])).rewards[0]

    assert len({asyncio.run(ask()) for _ in range(3)}) == 1
    assert len(client._calls.pools._by_loop) == 1  # those of loops that ended are swept


def test_one_client_serves_event_loops_in_several_threads(address: str) -> None:
    client = AsyncRewardClient(address)
    rewards: list[float | None] = []

    async def ask() -> None:
        rewards.append((await client.score("Why?", ["so"])).rewards[0])

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rewards) == 4 and len(set(rewards)) == 1


def test_calls_run_at_the_same_time(script: ScriptedService) -> None:
    """Each call waits at the server for all the others."""
    barrier = threading.Barrier(4)

    def meet(request, context):
        barrier.wait(20)
        return good_scores(request, context)

    script.plan(*[meet] * 4)

    async def ask() -> list:
        async with AsyncRewardClient(script.address) as client:
            return await asyncio.gather(*[client.score("Why?", ["abc"]) for _ in range(4)])

    assert [result.rewards for result in asyncio.run(ask())] == [(3.0,)] * 4


def test_a_busy_server_is_asked_again(script: ScriptedService) -> None:
    script.plan(busy(), busy(retry_after=0.01))

    async def ask() -> tuple:
        async with AsyncRewardClient(script.address, retry=RetryPolicy(0.0, 0.0)) as client:
            return (await client.score("Why?", ["abc"])).rewards

    assert asyncio.run(ask()) == (3.0,)
    assert len(script.requests) == 3


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (unknown_image(), RequestRefused),
        (busy(retry_after=3600.0), ServerUnavailable),
        (answer(pb.ScoreCandidatesResponse()), ServerFault),
    ],
)
def test_failures_are_typed(script: ScriptedService, step, kind: type[Exception]) -> None:
    script.plan(step)

    async def ask() -> None:
        async with AsyncRewardClient(script.address) as client:
            await client.score("Why?", ["abc"])

    with pytest.raises(kind):
        asyncio.run(ask())


def test_a_slow_server_exceeds_the_deadline(script: ScriptedService) -> None:
    release = threading.Event()
    script.plan(lambda request, context: release.wait(20) and good_scores(request, context))

    async def ask() -> None:
        async with AsyncRewardClient(script.address) as client:
            await client.score("Why?", ["abc"], timeout=0.2)

    try:
        with pytest.raises(DeadlineExceeded):
            asyncio.run(ask())
    finally:
        release.set()


def test_cancelling_a_task_cancels_its_call_at_the_server(script: ScriptedService) -> None:
    started, cancelled = threading.Event(), threading.Event()

    def hang(request, context):
        context.add_callback(cancelled.set)
        started.set()
        cancelled.wait(20)
        return good_scores(request, context)

    script.plan(hang)

    async def ask() -> None:
        async with AsyncRewardClient(script.address) as client:
            task = asyncio.create_task(client.score("Why?", ["abc"]))
            await asyncio.to_thread(started.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(cancelled.wait, 10)

    asyncio.run(ask())


def test_leaving_a_critique_cancels_it_at_the_server(script: ScriptedService) -> None:
    cancelled = threading.Event()

    def endless(request, context):
        context.add_callback(cancelled.set)
        while not cancelled.wait(0.01):
            yield pb.CritiqueCandidatesResponse(text="and ")

    script.plan(endless)

    async def ask() -> None:
        async with AsyncRewardClient(script.address) as client:
            events = client.critique("Why?", ["a"])
            await anext(events)
            await events.aclose()  # type: ignore[attr-defined]
            assert await asyncio.to_thread(cancelled.wait, 10)

    asyncio.run(ask())


def test_a_critique_is_repeated_until_its_first_event(script: ScriptedService) -> None:
    script.plan(busy())

    async def ask() -> int:
        async with AsyncRewardClient(script.address, retry=RetryPolicy(0.0, 0.0)) as client:
            return len([event async for event in client.critique("Why?", ["a"])])

    assert asyncio.run(ask()) == 4


def test_a_critique_that_breaks_off_is_the_servers_fault(script: ScriptedService) -> None:
    script.plan(lambda request, context: iter([]))

    async def ask() -> None:
        async with AsyncRewardClient(script.address) as client:
            async for _ in client.critique("Why?", ["a"]):
                pass

    with pytest.raises(ServerFault, match="broke off"):
        asyncio.run(ask())


def test_a_closed_client_says_so(address: str) -> None:
    async def ask() -> None:
        async with AsyncRewardClient(address) as client:
            await client.model()
        with pytest.raises(RuntimeError, match="closed"):
            await client.model()
        with pytest.raises(RuntimeError, match="closed"):
            client.critique("Why?", ["a"])
        await client.close()

    asyncio.run(ask())


def test_a_client_survives_pickling_after_a_call(address: str) -> None:
    async def ask() -> None:
        async with AsyncRewardClient(address) as client:
            before = await client.score("Why?", ["so"])
            async with pickle.loads(pickle.dumps(client)) as copy:
                assert (await copy.score("Why?", ["so"])).rewards == before.rewards

    asyncio.run(ask())
