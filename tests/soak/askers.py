"""Honest callers, through the real clients: scores, comparisons, critiques, and who is asked."""

import asyncio
import itertools
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge_reranker import AsyncRewardClient, OrderPolicy, RewardClient, RewardError
from tests.soak.questions import Question, question
from tests.soak.tally import Tally

TIMEOUT = 120.0
"""Seconds; an honest caller is never late, it is busy here."""
SCORERS, COMPARERS = 16, 3
NEW = 0.8
"""Of what they ask about; the rest was asked about before."""


@dataclass
class Traffic:
    """What all callers share: where, what next, and whether to go on."""

    address: str
    tally: Tally
    fresh_per_second: float
    """Questions that nobody asked before, from all callers together."""
    fresh: Iterator[int] = field(default_factory=itertools.count)
    """The next picture that nobody asked about before, from all of them in turn."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    choose: random.Random = field(default_factory=lambda: random.Random(7))

    def next_question(self) -> Question:
        """Many of them new; the others of the sample, those of its beginning often."""
        if self.choose.random() < NEW:
            return question(next(self.fresh))
        return self.known_question()

    def known_question(self) -> Question:
        known = list(self.tally.truths)
        return question(known[int(len(known) * self.choose.random() ** 3)])

    @property
    def seconds_between(self) -> float:
        """Two questions of one scorer or comparer."""
        return NEW * (SCORERS + COMPARERS) / self.fresh_per_second

    async def pause(self, seconds: float) -> None:
        """Or less, at the end."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return


async def again(
    traffic: Traffic, who: str, seconds: float, ask: Callable[[], Awaitable[None]]
) -> None:
    """Asks until the end, at most every so many seconds. RewardErrors are counted."""
    loop = asyncio.get_running_loop()
    while not traffic.stop.is_set():
        began = loop.time()
        try:
            await ask()
        except RewardError as error:
            traffic.tally.failed(who, error)
        await traffic.pause(seconds - (loop.time() - began))


async def scorer(traffic: Traffic) -> None:
    async with AsyncRewardClient(traffic.address, timeout=TIMEOUT) as client:

        async def ask() -> None:
            asked = traffic.next_question()
            # Where nothing is known to compare with, one candidate is enough.
            is_known = asked.number in traffic.tally.truths
            candidates = asked.candidates if is_known else asked.candidates[:1]
            result = await client.score(asked.prompt, candidates)
            traffic.tally.scored("score", asked, result.outcomes)

        await again(traffic, "score", traffic.seconds_between, ask)


async def comparer(traffic: Traffic) -> None:
    async with AsyncRewardClient(traffic.address, timeout=TIMEOUT) as client:

        async def ask() -> None:
            asked = traffic.next_question()
            both = asked.number in traffic.tally.truths and traffic.choose.random() < 0.5
            policy = OrderPolicy.BOTH if both else OrderPolicy.AS_GIVEN
            result = await client.compare(
                asked.prompt, asked.candidates, [(0, 1)], order_policy=policy
            )
            traffic.tally.compared("compare", asked, result.outcomes[0], both=both)

        await again(traffic, "compare", traffic.seconds_between, ask)


async def reader(traffic: Traffic) -> None:
    """Of critiques."""
    criticised = [n for n, truth in traffic.tally.truths.items() if truth.critique is not None]
    async with AsyncRewardClient(traffic.address, timeout=TIMEOUT) as client:

        async def ask() -> None:
            asked = question(traffic.choose.choice(criticised))
            events = [e async for e in client.critique(asked.prompt, asked.candidates[:1])]
            traffic.tally.criticised("critique", asked, events)

        await again(traffic, "critique", 2.0, ask)


async def blocking(traffic: Traffic) -> None:
    """The client that blocks, in threads of its own."""
    ended = threading.Event()

    def ask_all() -> None:
        choose = random.Random(threading.get_ident())
        while not ended.wait(0.5):
            asked = question(choose.choice(list(traffic.tally.truths)))
            try:
                result = client.score(asked.prompt, asked.candidates)
            except RewardError as error:
                traffic.tally.failed("blocking", error)
            else:
                traffic.tally.scored("blocking", asked, result.outcomes)

    with RewardClient(traffic.address, timeout=TIMEOUT) as client:
        threads = [asyncio.create_task(asyncio.to_thread(ask_all)) for _ in range(2)]
        await traffic.stop.wait()
        ended.set()
        await asyncio.gather(*threads)


async def visitor(traffic: Traffic) -> None:
    """Asks who answers, and whether it is well."""
    fingerprints: set[str] = set()
    async with (
        AsyncRewardClient(traffic.address, timeout=TIMEOUT) as client,
        grpc.aio.insecure_channel(traffic.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        async def ask() -> None:
            fingerprints.add((await client.model()).fingerprint)
            said = await health.Check(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT)
            is_serving = said.status == health_pb2.HealthCheckResponse.SERVING
            traffic.tally.count("visit", "OK" if is_serving else "NOT_SERVING")

        await again(traffic, "visit", 2.0, ask)
    if len(fingerprints) > 1:
        traffic.tally.wrong.append(f"visit: the model was {fingerprints}")
