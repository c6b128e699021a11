"""What the soak would notice."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from adjudge_reranker import Failure, RewardError
from adjudge_reranker.errors import DeadlineExceeded, RequestRefused, ServerUnavailable
from tests.server.watched import watched
from tests.soak.questions import question
from tests.soak.report import as_text, bars
from tests.soak.run import Soaked, free_port
from tests.soak.tally import HONEST, Tally
from tests.soak.truth import Truth
from tests.soak.watching import Watch

LATE = DeadlineExceeded("late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
TYPED_LATE = DeadlineExceeded(
    "late", code=grpc.StatusCode.DEADLINE_EXCEEDED, reason="DEADLINE_EXCEEDED"
)
HUNG_UP = ServerUnavailable("hung up", code=grpc.StatusCode.UNAVAILABLE)
CANCELLED = ServerUnavailable("cancelled", code=grpc.StatusCode.CANCELLED)
TRUTHS = {0: Truth(rewards=(50.0,), margin=0.0, margin_as_given=0.0)}


@pytest.mark.parametrize("error", [LATE, TYPED_LATE, HUNG_UP, CANCELLED], ids=repr)
@pytest.mark.parametrize("who", sorted(HONEST))
def test_no_answer_for_an_honest_caller_is_noticed(who: str, error: RewardError) -> None:
    tally = Tally(TRUTHS)
    tally.failed(who, error)
    tally.scored(who, question(0), [Failure(error)])
    assert len(tally.untyped) == 2


def test_a_caller_who_left_may_be_told_nothing() -> None:
    tally = Tally(TRUTHS)
    tally.failed("has no time", LATE)
    tally.failed("slow reader", TYPED_LATE)
    assert tally.untyped == []


def test_a_picture_of_which_every_item_failed_was_not_judged() -> None:
    tally = Tally(TRUTHS)
    refused = Failure(RequestRefused("no", reason="INPUT_TOO_LONG"))
    tally.scored("score", question(1), [refused, refused])
    tally.compared("compare", question(2), refused, both=True)
    assert tally.pictures == set()


def test_a_server_that_died_is_reported(tmp_path: Path) -> None:
    async def until_it_died() -> Soaked:
        port = free_port()
        flags = ("--critic", "fake", "--metrics-listen", f"127.0.0.1:{port}")
        with watched(tmp_path / "log", *flags) as server:
            watch = Watch(server, f"http://127.0.0.1:{port}/metrics")
            seen = await watch.look()
            os.kill(server.pid, signal.SIGKILL)
            assert await watch.settled() == seen
            return Soaked(Tally({}), seen, seen, (seen,), (), True, server.is_alive(), (), 0)

    found = asyncio.run(until_it_died())
    missed = [bar.name for bar in bars(found, 0) if not bar.is_met]
    assert "the server died" in missed
    assert "MISSED the server died" in as_text(found, bars(found, 0))
