"""Pictures cross the wire once, and again when the server no longer has them."""

import asyncio
import hashlib

import grpc
import numpy as np
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import AsyncRewardClient, Image, RequestRefused, RewardClient, to_image
from adjudge_reranker.channel import SentPictures
from tests.conftest import SEVEN
from tests.reranker.scripted import (
    ScriptedService,
    answer,
    busy,
    fail,
    good_scores,
    status,
    unknown_image,
)

PICTURE = to_image(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
OTHER = to_image(np.zeros((64, 64), np.uint8))
SMALL = to_image(np.zeros((16, 16, 4), np.uint8))


def sources(request, of_candidates: bool = False) -> list[str]:
    """How each picture of a request was sent."""
    holders = request.candidates if of_candidates else request.prompt
    parts = [part for holder in holders for part in holder.parts]
    return [part.image.WhichOneof("source") for part in parts if part.HasField("image")]


def test_a_wire_digest_is_what_the_contract_says() -> None:
    file = SEVEN.read_bytes()
    assert Image(file).wire_digest == hashlib.sha256(file).digest()
    pixels = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    expected = hashlib.sha256(b"RGB 2 1\n" + pixels.tobytes()).digest()
    assert to_image(pixels).wire_digest == expected


def test_a_picture_is_sent_once(script: ScriptedService, scripted_client: RewardClient) -> None:
    for _ in range(3):
        scripted_client.score([PICTURE, "Why?"], ["abc"])
    scripted_client.compare([PICTURE, OTHER], ["a", "b"], [(0, 1)])
    assert [sources(request) for request in script.requests] == [
        ["raw"],
        ["wire_digest"],
        ["wire_digest"],
        ["wire_digest", "raw"],
    ]
    assert script.requests[1].prompt[0].parts[0].image.wire_digest == PICTURE.wire_digest


def test_a_small_picture_is_sent_every_time(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    for _ in range(2):
        scripted_client.score([SMALL, "Why?"], ["abc"])
    assert [sources(request) for request in script.requests] == [["raw"], ["raw"]]


def test_a_picture_of_a_failed_call_does_not_count_as_sent(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    script.plan(fail(grpc.StatusCode.INTERNAL, "CRITIC_FAILURE"))
    with pytest.raises(Exception, match="CRITIC_FAILURE"):
        scripted_client.score([PICTURE, "Why?"], ["abc"])
    scripted_client.score([PICTURE, "Why?"], ["abc"])
    assert sources(script.requests[1]) == ["raw"]


def test_a_forgotten_picture_is_sent_again_within_the_deadline(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    scripted_client.score([PICTURE, "Why?"], ["abc"])
    script.plan(unknown_image(), busy(retry_after=0.5))
    result = scripted_client.score([PICTURE, "Why?"], ["abc"], timeout=5.0)
    assert result.rewards == (3.0,)
    assert [sources(request) for request in script.requests] == [
        ["raw"],
        ["wire_digest"],
        ["raw"],
        ["raw"],
    ]
    assert (script.deadlines[3] or 0.0) < 5.0 - 0.5 + 0.03 * 5  # gRPC rounds up by up to 3 %
    scripted_client.score([PICTURE, "Why?"], ["abc"])
    assert sources(script.requests[4]) == ["wire_digest"]


def test_a_forgotten_picture_stays_forgotten_until_it_has_arrived(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    scripted_client.score([PICTURE, "Why?"], ["abc"])
    script.plan(unknown_image(), fail(grpc.StatusCode.INTERNAL, "CRITIC_FAILURE"))
    with pytest.raises(Exception, match="CRITIC_FAILURE"):
        scripted_client.score([PICTURE, "Why?"], ["abc"])
    scripted_client.score([PICTURE, "Why?"], ["abc"])
    assert sources(script.requests[3]) == ["raw"]


def test_a_picture_that_is_always_unknown_fails_in_the_end(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    scripted_client.score([PICTURE, "Why?"], ["abc"])
    script.plan(unknown_image(), unknown_image())
    with pytest.raises(RequestRefused) as caught:
        scripted_client.score([PICTURE, "Why?"], ["abc"])
    assert caught.value.reason == "UNKNOWN_IMAGE"
    assert len(script.requests) == 3


def test_a_picture_forgotten_by_one_item_is_sent_again(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    scripted_client.score("Why?", [[PICTURE], "abc"])
    unknown = status(grpc.StatusCode.NOT_FOUND, "UNKNOWN_IMAGE")
    outcomes = [pb.ScoreOutcome(error=unknown), pb.ScoreOutcome(reward=pb.Reward(reward=3.0))]
    script.plan(answer(pb.ScoreCandidatesResponse(outcomes=outcomes)))
    assert scripted_client.score("Why?", [[PICTURE], "abc"]).rewards == (0.0, 3.0)
    assert [sources(request, of_candidates=True) for request in script.requests] == [
        ["raw"],
        ["wire_digest"],
        ["raw"],
    ]


def test_an_item_that_never_had_a_digest_keeps_its_error(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    unknown = pb.ScoreOutcome(error=status(grpc.StatusCode.NOT_FOUND, "UNKNOWN_IMAGE"))
    script.plan(answer(pb.ScoreCandidatesResponse(outcomes=[unknown])))
    assert scripted_client.score([PICTURE], ["abc"]).rewards == (None,)
    assert len(script.requests) == 1


def test_critiques_send_pictures_whole(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    for _ in range(2):
        list(scripted_client.critique([PICTURE, "Why?"], ["abc"]))
    assert [sources(request) for request in script.requests] == [["raw"], ["raw"]]


def test_the_asyncio_client_does_the_same(script: ScriptedService) -> None:
    script.plan(good_scores, unknown_image())

    async def ask() -> None:
        async with AsyncRewardClient(script.address) as client:
            for _ in range(3):
                await client.score([PICTURE, "Why?"], ["abc"])

    asyncio.run(ask())
    assert [sources(request) for request in script.requests] == [
        ["raw"],
        ["wire_digest"],
        ["raw"],
        ["wire_digest"],
    ]


def test_a_real_server_gives_the_same_reward_for_the_digest(address: str) -> None:
    with RewardClient(address) as client:
        whole = client.score([PICTURE, "Why?"], ["so"])
        with client._calls.pools.get().servers.one(b"") as connection:
            assert connection.sent.known([PICTURE.wire_digest])
        assert client.score([PICTURE, "Why?"], ["so"]).rewards == whole.rewards


def test_a_real_server_that_retains_nothing_is_sent_the_picture_again(launch) -> None:
    server = launch(critic="fake", max_retained_bytes=0)
    with RewardClient(f"127.0.0.1:{server.port}") as client:
        rewards = {client.score([PICTURE, "Why?"], ["so"]).rewards for _ in range(3)}
    assert len(rewards) == 1


def test_the_memory_of_what_was_sent_is_bounded() -> None:
    sent = SentPictures(max_digests=2)
    sent.remember([b"a", b"b"])
    sent.remember([b"a"])  # used again, so b is the oldest
    sent.remember([b"c"])
    assert sent.known([b"a", b"b", b"c"]) == {b"a", b"c"}
    sent.forget([b"a", b"never sent"])
    assert sent.known([b"a", b"b", b"c"]) == {b"c"}
