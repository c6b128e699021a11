"""Mutated requests: first those that were found to be answered badly once, then new ones.

`python -m tests.server.fuzz` runs longer, and watches the server's memory.
"""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from adjudge.v1 import admin_pb2
from adjudge.v1 import reward_pb2 as pb
from tests.server.fuzz.mutation import Mutator
from tests.server.fuzz.running import forever, kept, send
from tests.server.fuzz.surface import (
    HEALTH,
    LOAD,
    MODEL,
    MODELS,
    SCORE,
    SHARES,
    STREAMED,
    Answer,
    problem,
    seeds,
)
from tests.server.fuzz.weights import Weights, lay_out
from tests.server.watched import Watched, watched

SECONDS = 20.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return lay_out(tmp_path_factory.mktemp("weights") / "of-fuzz")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> Iterator[Watched]:
    log = tmp_path_factory.mktemp("fuzz") / "log"
    models = log.with_name("models.toml")
    models.write_text(MODELS)
    flags = ("--enable-admin", "--weights-dir", str(weights.root), "--max-critique-tokens", "32")
    with watched(log, "--models", str(models), "--log-level", "error", *flags) as server:
        yield server


def test_sound_requests_are_answered(server: Watched, weights: Weights) -> None:
    sound = [(method, message.SerializeToString()) for method, message in seeds(weights)]
    found = asyncio.run(send(server.address, sound, weights))
    assert not found.problems
    assert found.codes["OK"] > found.num_requests / 2, found.codes


def test_what_was_answered_badly_once_is_answered_well(server: Watched, weights: Weights) -> None:
    found = asyncio.run(send(server.address, kept(), weights))
    assert not found.problems
    assert not server.complaints()


def test_mutated_requests_are_answered_or_refused_with_a_reason(
    server: Watched, weights: Weights
) -> None:
    mutated = forever(Mutator(20261126, seeds(weights), SHARES).request)
    found = asyncio.run(send(server.address, mutated, weights, seconds=SECONDS))
    assert not found.problems
    everywhere = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"}
    assert everywhere <= set(found.codes), "it must reach everywhere"
    assert server.is_alive()
    assert not server.complaints()


def test_what_leads_out_of_the_root_is_not_loaded(server: Watched, weights: Weights) -> None:
    for path in weights.asked_for():
        request = admin_pb2.LoadWeightsRequest(path=str(path)).SerializeToString()
        asked = [(LOAD, request), (MODEL, b"")]
        found = asyncio.run(send(server.address, asked, weights, num_callers=1))
        assert not found.problems
        is_good = path.parent == weights.root and path.name in ("step-1", "step-2", "link-within")
        assert (found.codes["OK"] == 2) == is_good, path


def test_weights_from_elsewhere_would_be_noticed(weights: Weights) -> None:
    bait = next(path for path in weights.asked_for() if path.name == weights.BAIT)
    request = admin_pb2.LoadWeightsRequest(path=str(bait)).SerializeToString()
    loaded = Answer([b""], grpc.StatusCode.OK, "", b"")
    assert problem((LOAD, request), loaded, weights)
    served = pb.GetModelResponse(model=pb.Model(revision=weights.BAIT)).SerializeToString()
    assert problem((MODEL, b""), Answer([served], grpc.StatusCode.OK, "", b""), weights)


def test_the_same_seed_makes_the_same_requests(weights: Weights) -> None:
    one, two, other = (Mutator(seed, seeds(weights), SHARES) for seed in (1, 1, 2))
    made = [one.request() for _ in range(50)]
    assert made == [two.request() for _ in range(50)]
    assert made != [other.request() for _ in range(50)]


@pytest.mark.parametrize("method", [SCORE, HEALTH, LOAD, *STREAMED])
def test_a_bare_failure_would_be_noticed(method: str, weights: Weights) -> None:
    for code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        assert problem((method, b""), Answer([], code, "", b""), weights)
    untyped = Answer([], grpc.StatusCode.INVALID_ARGUMENT, "", b"")
    assert problem((method, b""), untyped, weights)


def test_an_outcome_that_is_nothing_would_be_noticed(weights: Weights) -> None:
    for outcome in (
        pb.ScoreOutcome(),
        pb.ScoreOutcome(reward=pb.Reward()),
        pb.ScoreOutcome(reward=pb.Reward(reward=float("nan"))),
        pb.ScoreOutcome(reward=pb.Reward(reward=1.0, members=[pb.MemberReward()])),
        pb.ScoreOutcome(
            reward=pb.Reward(
                reward=1.0,
                member_spread=float("nan"),
                members=[pb.MemberReward(reward=pb.Reward(reward=1.0))],
            )
        ),
        pb.ScoreOutcome(
            reward=pb.Reward(
                reward=1.0,
                member_spread=1.0,
                members=[pb.MemberReward(reward=pb.Reward(reward=float("nan")))],
            )
        ),
    ):
        message = pb.ScoreCandidatesResponse(outcomes=[outcome]).SerializeToString()
        assert problem((SCORE, b""), Answer([message], grpc.StatusCode.OK, "", b""), weights)
