"""A watchdog may give up an exchange of weights that goes on nonetheless. What it ends with is one
state or the other, never new weights under the old name."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adjudge_server import moving
from adjudge_server.batcher import Batcher
from adjudge_server.config import Config
from adjudge_server.critic import Spare
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.errors import CriticFailure, WrongEpoch
from adjudge_server.judge import Judge
from adjudge_server.moving import Mover
from adjudge_server.self_check import check

PATIENCE = 30.0


class Tensors(FakeCritic):
    """Whose weights are exchanged like those of a model: what was there is what it takes back."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, str] = {"weight": "old"}
        self.copying: Callable[[Any], object] = lambda _: None
        """Called in the middle of an exchange."""

    def read_weights(self, directory: Path) -> Spare:
        return Spare(self.card, {"weight": "new"})

    def exchange(self, spare: Spare) -> None:
        here = self.tensors["weight"]
        self.copying(self)
        self.tensors["weight"] = spare.tensors["weight"]
        spare.tensors["weight"] = here


class Slow:
    """A self-check, or what else a move does, that takes until it is told to end."""

    def __init__(self, end: Callable[[Any], Any]) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self._end = end

    def __call__(self, critic: Any) -> Any:
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE)
        return self._end(critic)


async def given_up(
    slow: Slow, directory: Path, copying: Callable[[Any], object] = lambda _: None
) -> tuple[Tensors, Batcher[Any], list[Any]]:
    """What is there once an exchange that was given up has ended."""
    critic = Tensors()
    critic.copying = copying
    batcher: Batcher[Any] = Batcher(critic.forward, max_batch_tokens=100, max_queue_tokens=100)
    served: list[Any] = []
    with ThreadPoolExecutor(1) as pool:
        judge = Judge(critic, batcher, pool, check(critic), Config(critic="fake"))
        move = asyncio.create_task(Mover(judge, served.append).move(directory))
        assert await asyncio.to_thread(slow.has_begun.wait, PATIENCE)
        batcher.abandon(CriticFailure("it hangs"), "it hangs")
        with pytest.raises(CriticFailure, match="it hangs"):
            await move
        slow.may_end.set()
        batcher.resume()
        await asyncio.wrap_future(batcher.call(lambda: None))
        batcher.close(PATIENCE)
    return critic, batcher, served


def test_weights_that_are_refused_after_the_watchdog_gave_up_are_taken_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(critic: Any) -> None:
        raise ValueError("they are not well")

    slow = Slow(refuse)
    monkeypatch.setattr(moving, "check", slow)
    critic, batcher, served = asyncio.run(given_up(slow, tmp_path))
    assert critic.tensors == {"weight": "old"}
    assert batcher.epoch == 0 and served == []


def test_weights_that_are_well_after_the_watchdog_gave_up_are_served_by_their_own_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = Slow(check)
    monkeypatch.setattr(moving, "check", slow)
    critic, batcher, served = asyncio.run(given_up(slow, tmp_path))
    assert critic.tensors == {"weight": "new"}
    assert batcher.epoch == 1 and [judge.weights_epoch for judge in served] == [1]


def test_weights_that_were_being_copied_when_the_watchdog_gave_up_are_whole(
    tmp_path: Path,
) -> None:
    slow = Slow(lambda _: None)
    critic, batcher, served = asyncio.run(given_up(slow, tmp_path, copying=slow))
    assert critic.tensors == {"weight": "new"}
    assert batcher.epoch == 1 and [judge.weights_epoch for judge in served] == [1]


def test_a_move_that_names_an_epoch_finds_out_when_it_passed_while_weights_were_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the end of an exchange that the watchdog had given up."""
    checking, reading = Slow(check), Slow(lambda _: None)

    async def run() -> tuple[Tensors, Batcher[Any]]:
        critic = Tensors()
        batcher: Batcher[Any] = Batcher(critic.forward, max_batch_tokens=100, max_queue_tokens=100)
        with ThreadPoolExecutor(1) as pool:
            judge = Judge(critic, batcher, pool, check(critic), Config(critic="fake"))
            mover = Mover(judge, lambda _: None)
            monkeypatch.setattr(moving, "check", checking)
            first = asyncio.create_task(mover.move(tmp_path))
            assert await asyncio.to_thread(checking.has_begun.wait, PATIENCE)
            batcher.abandon(CriticFailure("it hangs"), "it hangs")
            with pytest.raises(CriticFailure, match="it hangs"):
                await first
            honest = critic.read_weights

            def read_weights(directory: Path) -> Spare:
                reading(critic)
                return honest(directory)

            critic.read_weights = read_weights  # type: ignore[method-assign]
            second = asyncio.create_task(mover.move(tmp_path, expected_epoch=0))
            assert await asyncio.to_thread(reading.has_begun.wait, PATIENCE)
            checking.may_end.set()
            batcher.resume()
            await asyncio.wrap_future(batcher.call(lambda: None))
            reading.may_end.set()
            with pytest.raises(WrongEpoch):
                await second
            batcher.close(PATIENCE)
        return critic, batcher

    critic, batcher = asyncio.run(run())
    assert (critic.tensors, batcher.epoch) == ({"weight": "new"}, 1)
