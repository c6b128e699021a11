"""CPU work for callers who have left ends between two items, through a real channel."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server import leaving
from adjudge_server.asking import Asker
from adjudge_server.config import Config
from adjudge_server.content import EncodedImage
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.loading import load_critic
from adjudge_server.serve import Server
from tests.conftest import Launch, stub
from tests.server.questions import score_query
from tests.server.test_service import (
    PATIENCE,
    compare_request,
    critique_request,
    encoded,
    noise,
    rewards,
    score_request,
    turn,
    wait_until,
)

MANY = 64


@dataclass
class Gate:
    """Stops the first item until it is told to go on; counts all."""

    num_begun: int = 0
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def pass_through(self) -> None:
        self.num_begun += 1
        self.begun.set()
        assert self.go_on.wait(PATIENCE)


@contextmanager
def gated(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Iterator[Gate]:
    """A function that does one item waits at a gate before it."""
    gate, honest = Gate(), getattr(owner, name)

    def item(*asked: Any, **named: Any) -> Any:
        gate.pass_through()
        return honest(*asked, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, item)
        yield gate
        gate.go_on.set()


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch(critic="fake", workers=1)


def num_open(server: Server) -> int:
    return server._observation.interceptor.num_open


def leave(server: Server, call: Any, channel: grpc.Channel, how: str) -> None:
    """The call's handler is over before anybody tells the thread to go on."""
    if how == "cancels":
        call.cancel()
    elif how == "disconnects":
        channel.close()
    else:
        error = call.exception(PATIENCE)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: num_open(server) == 0)


def idle(server: Server) -> None:
    """Whatever the one worker was at is over."""
    server._pool.submit(lambda: None).result(PATIENCE)


SCORE: tuple[Callable[..., Any], str] = (score_request, "ScoreCandidates")
COMPARE: tuple[Callable[..., Any], str] = (
    lambda *texts: compare_request(*texts, pairs=[(0, i) for i in range(1, MANY)]),
    "CompareCandidates",
)


@pytest.mark.parametrize("how", ["cancels", "disconnects", "is too late"])
@pytest.mark.parametrize(("request_of", "method"), [SCORE, COMPARE], ids=["score", "compare"])
def test_no_further_item_is_tokenised_for_a_caller_that_has_left(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    request_of: Callable[..., Any],
    method: str,
) -> None:
    request = request_of(*(f"candidate {i}" for i in range(MANY)))
    looked_up = FakeCritic._prepare
    texts: list[str] = []

    def prepare(self: FakeCritic, query: Any) -> Any:
        found = looked_up(self, query)  # it looks first whether anybody waits
        texts.append(query.text)
        return found

    monkeypatch.setattr(FakeCritic, "_prepare", prepare)
    with gated(monkeypatch, FakeCritic, "_prepare") as gate:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            timeout = 1.0 if how == "is too late" else None
            call = getattr(RewardServiceStub(channel), method).future(request, timeout=timeout)
            assert gate.begun.wait(PATIENCE)
            leave(server, call, channel, how)
        gate.go_on.set()
        idle(server)
    assert (gate.num_begun, texts) == (1, [])
    with stub(server) as service:
        assert rewards(service, "wanted")


def test_no_further_picture_is_decoded_for_a_caller_that_has_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [encoded(noise(9, 7, seed)) for seed in range(4)]
    request = critique_request("a", prompt=[turn(*pictures, "How many?")])
    with gated(monkeypatch, Asker, "_picture") as gate:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = RewardServiceStub(channel).CritiqueCandidates(request)
            assert gate.begun.wait(PATIENCE)
            leave(server, call, channel, "cancels")
        gate.go_on.set()
        idle(server)
    assert gate.num_begun == 1


def test_what_has_not_begun_when_its_caller_leaves_is_never_begun(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gated(monkeypatch, FakeCritic, "_prepare") as gate:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            service = RewardServiceStub(channel)
            stays = service.ScoreCandidates.future(score_request("stays"))
            assert gate.begun.wait(PATIENCE)
            leaves = [service.ScoreCandidates.future(score_request("leaves")) for _ in range(8)]
            wait_until(lambda: num_open(server) == 9)
            for call in leaves:
                call.cancel()
            wait_until(lambda: num_open(server) == 1)
            gate.go_on.set()
            assert stays.result(PATIENCE).outcomes[0].HasField("reward")
        idle(server)
    assert gate.num_begun == 1


@pytest.mark.parametrize("name", ["fake", "auto"])
def test_a_critic_prepares_nothing_more_for_a_caller_that_has_left(name: str) -> None:
    critic = load_critic(Config(critic=name))
    picture = EncodedImage(encoded(noise(9, 7)).encoded)
    sound = score_query(critic.card, "What does it show?", "A seven.", picture)
    begun, go_on = threading.Event(), threading.Event()
    ended: list[object] = []

    def prepare() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        try:
            ended.append(critic.prepare([sound]))
        except leaving.CallerLeft as left:
            ended.append(left)

    async def leave_while_it_prepares() -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = asyncio.create_task(leaving.run_in(pool, prepare))
            await asyncio.to_thread(begun.wait, PATIENCE)
            waiting.cancel()
            await asyncio.wait({waiting})
            go_on.set()

    asyncio.run(leave_while_it_prepares())
    assert isinstance(ended[0], leaving.CallerLeft)
    assert len(critic.prepare([sound])) == 1


def test_one_caller_that_leaves_takes_nothing_from_another_in_the_same_thread() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(PATIENCE)
        leaving.check()
        return "done"

    async def two() -> str:
        with ThreadPoolExecutor(1) as pool:
            leaver = asyncio.create_task(leaving.run_in(pool, wait))
            await asyncio.to_thread(begun.wait, PATIENCE)
            leaver.cancel()
            stayer = asyncio.create_task(leaving.run_in(pool, wait))
            await asyncio.wait({leaver})
            go_on.set()
            return await stayer

    assert asyncio.run(two()) == "done"
    leaving.check()  # outside of it nobody has left
