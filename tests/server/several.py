"""Servers of several critics, for tests: a file beside checkpoints, and what to ask of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from adjudge.v1 import admin_pb2, admin_pb2_grpc
from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server.resident import Resident
from adjudge_server.serve import Server
from tests.conftest import Launch
from tests.server.test_service import score_request

PATIENCE = 60.0


def serve(launch: Launch, folder: Path, source: str, **settings: Any) -> Server:
    """A server of what a file says, whose weights may move to any directory in the folder."""
    path = folder / "models.toml"
    path.write_text(source, encoding="utf-8")
    return launch(models=path, enable_admin=True, weights_dir=(folder,), **settings)


def resident(server: Server, name: str) -> Resident:
    return next(critic for critic in server.models.critics if critic.name == name)


def move(
    server: Server, model: str, directory: Path, **fields: Any
) -> admin_pb2.LoadWeightsResponse:
    """To weights that are called like the directory, which a fake's numbers depend on."""
    directory.mkdir(exist_ok=True)
    with admin(server) as administration:
        request = admin_pb2.LoadWeightsRequest(path=str(directory), model=model, **fields)
        answer: admin_pb2.LoadWeightsResponse = administration.LoadWeights(
            request, timeout=PATIENCE
        )
    return answer


@contextmanager
def admin(server: Server) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


def score(
    service: RewardServiceStub, model: str, *texts: str, **fields: Any
) -> pb.ScoreCandidatesResponse:
    request = score_request(*texts, model=model, **fields)
    response: pb.ScoreCandidatesResponse = service.ScoreCandidates(request, timeout=PATIENCE)
    return response


def values(response: pb.ScoreCandidatesResponse) -> list[float]:
    assert all(outcome.reward.HasField("reward") for outcome in response.outcomes), response
    return [outcome.reward.reward for outcome in response.outcomes]


def described(service: RewardServiceStub, model: str = "") -> pb.Model:
    request = pb.GetModelRequest(model=model)
    found: pb.Model = service.GetModel(request, timeout=PATIENCE).model
    return found
