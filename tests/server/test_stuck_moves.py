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
from adjudge_server.errors import CriticFailure
from adjudge_server.judge import Judge
from adjudge_server.moving import Mover
from adjudge_server.self_check import SelfCheck, check

PATIENCE = 30.0


class Tensors(FakeCritic):
    """Whose weights are exchanged like those of a model: what was there is what it takes back."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, str] = {"weight": "old"}

    def read_weights(self, directory: Path) -> Spare:
        return Spare(self.card, {"weight": "new"})

    def exchange(self, spare: Spare) -> None:
        here, spare.tensors = self.tensors["weight"], {"weight": spare.tensors["weight"]}
        self.tensors["weight"] = spare.tensors["weight"]
        spare.tensors = {"weight": here}


class Slow:
    """A self-check that takes until it is told to end."""

    def __init__(self, end: Callable[[Any], SelfCheck]) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self._end = end

    def __call__(self, critic: Any) -> SelfCheck:
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE)
        return self._end(critic)


async def given_up(slow: Slow, directory: Path) -> tuple[Tensors, Batcher[Any], list[Any]]:
    """What is there once an exchange that was given up has ended."""
    critic = Tensors()
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
    def refuse(critic: Any) -> SelfCheck:
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
