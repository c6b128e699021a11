"""Every picture that the makers of Pillow and pillow-heif test with, broken ones included."""

import sys
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_reranker.errors import ErrorReason, error_from_rpc
from tests.server.corpora.fetching import PILLOW, PILLOW_HEIF, Corpus, pictures
from tests.server.watched import MIB, Watched, watched

MAX_SECONDS = 5.0
"""Of the server's CPU."""
MAX_BYTES = 1024 * MIB
REFUSALS = {ErrorReason.UNDECODABLE_IMAGE, ErrorReason.LIMIT_EXCEEDED}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches /proc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("corpora") / "log") as server:
        yield server


@pytest.mark.parametrize("corpus", [PILLOW, PILLOW_HEIF], ids=["pillow", "pillow-heif"])
def test_every_picture_gets_a_reward_or_a_typed_refusal_soon_and_cheaply(
    corpus: Corpus, server: Watched
) -> None:
    outcomes: Counter[str] = Counter()
    wrong = []
    with grpc.insecure_channel(
        server.address, [("grpc.max_send_message_length", 64 * MIB)]
    ) as channel:
        service = RewardServiceStub(channel)
        _outcome(service, b"")  # what the first call costs is not the first picture's
        for name, data in pictures(corpus):
            server.forget_peak()
            before, began = server.resident_bytes(), server.cpu_seconds()
            outcome = _outcome(service, data)
            seconds, more = server.cpu_seconds() - began, server.peak_bytes() - before
            outcomes[outcome] += 1
            if outcome not in {"reward", *REFUSALS} or seconds > MAX_SECONDS or more > MAX_BYTES:
                wrong.append(f"{name}: {outcome}, {seconds:.1f} s, {more / MIB:.0f} MiB")
        assert not wrong
        assert outcomes["UNDECODABLE_IMAGE"], "no broken picture is left among them"
        assert outcomes["reward"], "no sound picture is left among them"
        assert _outcome(service, b"") == "UNDECODABLE_IMAGE", "the server is alive"
    assert not server.complaints()


def _outcome(service: RewardServiceStub, data: bytes) -> str:
    image = pb.Part(image=pb.Image(encoded=data))
    turn = pb.Message(role=pb.ROLE_USER, parts=[image, pb.Part(text="What is this?")])
    request = pb.ScoreCandidatesRequest(
        prompt=[turn], candidates=[pb.Candidate(parts=[pb.Part(text="A picture.")])]
    )
    try:
        response = service.ScoreCandidates(request, timeout=60)
    except grpc.RpcError as error:
        failure = error_from_rpc(error)
        return failure.reason or f"{failure.code.name}: {failure.message}"
    scored = response.outcomes[0]
    return "reward" if scored.HasField("reward") else f"item: {scored.error.message}"
