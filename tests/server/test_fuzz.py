"""Mutated requests: first those that were found to be answered badly once, then new ones.

`python -m tests.server.fuzz` runs longer, and watches the server's memory.
"""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from adjudge.v1 import reward_pb2 as pb
from tests.server.fuzz.mutation import Mutator
from tests.server.fuzz.running import forever, kept, send
from tests.server.fuzz.surface import HEALTH, SCORE, STREAMED, Answer, problem, seeds
from tests.server.watched import Watched, watched

SECONDS = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    log = tmp_path_factory.mktemp("fuzz") / "log"
    with watched(log, "--critic", "fake", "--log-level", "error") as server:
        yield server


def test_sound_requests_are_answered(server: Watched) -> None:
    sound = [(method, message.SerializeToString()) for method, message in seeds()]
    found = asyncio.run(send(server.address, sound))
    assert not found.problems
    assert found.codes["OK"] > found.num_requests / 2, found.codes


def test_what_was_answered_badly_once_is_answered_well(server: Watched) -> None:
    found = asyncio.run(send(server.address, kept()))
    assert not found.problems
    assert not server.complaints()


def test_mutated_requests_are_answered_or_refused_with_a_reason(server: Watched) -> None:
    mutated = forever(Mutator(20261126, seeds()).request)
    found = asyncio.run(send(server.address, mutated, seconds=SECONDS))
    assert not found.problems
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(found.codes), "it must reach everywhere"
    assert server.is_alive()
    assert not server.complaints()


def test_the_same_seed_makes_the_same_requests() -> None:
    one, two, other = (Mutator(seed, seeds()) for seed in (1, 1, 2))
    made = [one.request() for _ in range(50)]
    assert made == [two.request() for _ in range(50)]
    assert made != [other.request() for _ in range(50)]


@pytest.mark.parametrize("method", [SCORE, HEALTH, *STREAMED])
def test_a_bare_failure_would_be_noticed(method: str) -> None:
    for code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        assert problem(method, Answer([], code, "", b""))
    assert problem(method, Answer([], grpc.StatusCode.INVALID_ARGUMENT, "", b""))


def test_an_outcome_that_is_nothing_would_be_noticed() -> None:
    for outcome in (
        pb.ScoreOutcome(),
        pb.ScoreOutcome(reward=pb.Reward()),
        pb.ScoreOutcome(reward=pb.Reward(reward=float("nan"))),
    ):
        message = pb.ScoreCandidatesResponse(outcomes=[outcome]).SerializeToString()
        assert problem(SCORE, Answer([message], grpc.StatusCode.OK, "", b""))
