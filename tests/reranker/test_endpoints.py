"""Several servers behind one client: calls stay where the caches are, and go on if one is gone."""

import asyncio
import math
from contextlib import AbstractContextManager, ExitStack

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import AsyncRewardClient, Message, RetryPolicy, RewardClient, to_image
from adjudge_reranker.endpoints import Endpoints, affinity_key
from adjudge_reranker.errors import RequestRefused, ServerUnavailable
from tests.reranker.scripted import ScriptedService, busy, fail, serving

keys = st.binary(min_size=1, max_size=8)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Chooser:
    """Endpoints of `count` hosts."""

    def __init__(self, count: int, clock: Clock | None = None) -> None:
        self.addresses = [f"host-{number}:1" for number in range(count)]
        self._endpoints = Endpoints(RetryPolicy(1.0, 8.0), clock=clock or Clock())

    def chosen(self, key: bytes) -> AbstractContextManager[str]:
        return self._endpoints.chosen(key, self.addresses)

    def elsewhere(self) -> bool:
        return self._endpoints.elsewhere(self.addresses)


def choice(chooser: Chooser, key: bytes) -> str:
    with chooser.chosen(key) as address:
        return address


def fail_at(chooser: Chooser, key: bytes, retry_after: float | None = None) -> str:
    with pytest.raises(ServerUnavailable), chooser.chosen(key) as address:
        raise ServerUnavailable(
            "gone", code=grpc.StatusCode.UNAVAILABLE, retry_after_seconds=retry_after
        )
    return address


@given(count=st.integers(1, 6), key=keys)
def test_calls_about_the_same_pictures_stay_together(count: int, key: bytes) -> None:
    assert len({choice(Chooser(count), key) for _ in range(3)}) == 1


def test_a_new_endpoint_takes_keys_from_the_others_and_moves_no_other() -> None:
    before, after = Chooser(3), Chooser(4)
    moved = {
        choice(after, key)
        for key in (str(number).encode() for number in range(300))
        if choice(before, key) != choice(after, key)
    }
    assert moved == {"host-3:1"}


@given(count=st.integers(1, 5), calls=st.lists(keys, max_size=60))
def test_no_endpoint_has_much_more_than_its_share_in_flight(count: int, calls: list[bytes]) -> None:
    chooser = Chooser(count)
    loads = dict.fromkeys(chooser.addresses, 0)
    with ExitStack() as stack:
        for number, key in enumerate(calls, start=1):
            loads[stack.enter_context(chooser.chosen(key))] += 1
            assert sum(loads.values()) == number
            assert max(loads.values()) <= math.ceil(1.25 * number / count)


@given(key=keys, retry_after=st.one_of(st.none(), st.floats(0, 30)))
def test_an_endpoint_that_failed_rests_and_is_then_tried_again(key, retry_after) -> None:
    clock = Clock()
    chooser = Chooser(2, clock)
    first = fail_at(chooser, key, retry_after)
    assert chooser.elsewhere()
    clock.now += (retry_after or 0.0) + 0.49  # at least half the back-off of 1 s
    assert choice(chooser, key) != first
    clock.now += 0.52
    assert choice(chooser, key) == first


@given(keys, st.data())
def test_what_is_known_of_an_endpoint_that_stays_is_kept(key: bytes, data: st.DataObject) -> None:
    chooser = Chooser(4)
    resting = fail_at(chooser, key, 90.0)
    others = [address for address in chooser.addresses if address != resting]
    chooser.addresses = [
        resting,
        *data.draw(st.sets(st.sampled_from([*others, "new:1"]), min_size=1)),
    ]
    assert choice(chooser, key) != resting


@given(key=keys)
def test_where_all_rest_the_first_to_wake_is_tried(key: bytes) -> None:
    chooser = Chooser(3)
    order = [fail_at(chooser, key, seconds) for seconds in (90.0, 30.0, 60.0)]
    assert len(set(order)) == 3
    assert not chooser.elsewhere()
    assert choice(chooser, key) == order[1]


def test_a_refusal_is_an_answer_and_no_reason_to_rest() -> None:
    chooser = Chooser(2)
    with pytest.raises(RequestRefused), chooser.chosen(b"a") as first:
        raise RequestRefused("no", reason="INVALID_REQUEST")
    assert choice(chooser, b"a") == first


def test_pictures_decide_where_there_are_any_and_texts_otherwise() -> None:
    one, other = (to_image(np.full((8, 8), grey, np.uint8)) for grey in (1, 2))

    def key(*parts: object) -> bytes:
        return affinity_key([Message.user(*parts)])  # type: ignore[arg-type]

    assert key(one, "Why?") == key("How?", one)
    assert key(one, "Why?") != key(other, "Why?")
    assert key("Why?") != key("How?")
    assert key("ab", "c") != key("a", "bc")


@pytest.mark.parametrize("addresses", [[], [""], ["a:1", "a:1"]], ids=repr)
@pytest.mark.parametrize("client", [RewardClient, AsyncRewardClient])
def test_addresses_that_make_no_sense_are_refused(client: type, addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="address"):
        client(addresses)


@pytest.fixture
def services():
    with serving() as one, serving() as other:
        yield one, other


def asked(services: tuple[ScriptedService, ...]) -> list[int]:
    return [len(service.requests) for service in services]


def test_prompts_spread_over_servers_and_each_stays_at_one(services) -> None:
    with RewardClient([service.address for service in services]) as client:
        for _ in range(2):
            for number in range(20):
                client.score(f"Question {number}?", ["abc"])
    texts = [[r.prompt[0].parts[0].text for r in service.requests] for service in services]
    assert all(texts) and not set(texts[0]) & set(texts[1])


def test_a_failed_call_goes_to_the_next_server_at_once_and_does_not_return_to_the_first(
    services,
) -> None:
    first = services[0]
    first.plan(busy(retry_after=30.0))
    with RewardClient([service.address for service in services]) as client:
        for number in range(30):
            assert client.score(f"Question {number}?", ["abc"], timeout=20.0).rewards == (3.0,)
    assert len(first.requests) == 1  # it asked for 30 s of rest, longer than any call would wait


def test_a_server_that_is_gone_costs_no_call(services) -> None:
    one, _ = services
    with RewardClient([one.address, "127.0.0.1:1"], timeout=20.0) as client:
        rewards = [client.score(f"Question {number}?", ["abc"]).rewards for number in range(20)]
    assert rewards == [(3.0,)] * 20


def test_attempts_at_other_servers_count_as_attempts() -> None:
    retry = RetryPolicy(max_attempts=2)
    with (
        RewardClient(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], retry=retry) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.score("Why?", ["abc"])


def test_a_picture_is_sent_once_to_each_server(services) -> None:
    picture = to_image(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    addresses = [service.address for service in services]
    with RewardClient(addresses, retry=RetryPolicy(0.01, 0.01)) as client:
        client.score([picture], ["abc"])
        first = next(service for service in services if service.requests)
        (other,) = (service for service in services if service is not first)
        first.plan(busy(retry_after=30.0))
        client.score([picture], ["abc"])
        client.score([picture], ["abc"])
    assert [r.prompt[0].parts[0].image.WhichOneof("source") for r in other.requests] == [
        "raw",
        "wire_digest",
    ]


def test_a_critique_fails_over_before_its_first_event(services) -> None:
    services[0].plan(busy(retry_after=30.0))
    with RewardClient([service.address for service in services]) as client:
        for number in range(30):
            assert len(list(client.critique(f"Question {number}?", ["a"], timeout=20.0))) == 4
    assert len(services[0].requests) == 1


def test_only_unavailable_fails_over(services) -> None:
    for service in services:
        service.plan(fail(grpc.StatusCode.INTERNAL, "CRITIC_FAILURE"))
    with (
        RewardClient([service.address for service in services]) as client,
        pytest.raises(Exception, match="CRITIC_FAILURE"),
    ):
        client.score("Why?", ["abc"])
    assert sum(asked(services)) == 1


def test_the_asyncio_client_fails_over_too(services) -> None:
    one, _ = services

    async def ask() -> list:
        async with AsyncRewardClient([one.address, "127.0.0.1:1"], timeout=20.0) as client:
            calls = [client.score(f"Question {number}?", ["abc"]) for number in range(20)]
            return [result.rewards for result in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [(3.0,)] * 20
