"""Limits of the whole server: each is told by GetModel, has a flag, and is refused by name."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib.resources import files

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adjudge_reranker import AsyncRewardClient, RequestRefused, RewardClient
from adjudge_reranker.errors import ErrorReason, RewardError, error_from_rpc
from adjudge_reranker.model_info import Limits
from adjudge_server.__main__ import parse
from adjudge_server.config import Config
from adjudge_server.critics.anyres import Geometry, layout, tiles
from adjudge_server.serve import Server
from tests.conftest import Launch, stub
from tests.server.test_service import (
    PATIENCE,
    busy,
    compare_request,
    encoded,
    model,
    noise,
    pictured,
    queued,
    refusal,
    rewards,
    score_request,
    scores,
    turn,
    wait_until,
)

OF_THE_CHECKPOINT = {"max_tiles"}
FLAGS = {
    limit.name: f"--{limit.name.replace('_', '-')}"
    for limit in fields(Limits)
    if limit.name not in OF_THE_CHECKPOINT
}


@pytest.mark.parametrize("limit", FLAGS)
def test_every_limit_has_a_flag_and_a_default_and_is_told(limit: str, launch: Launch) -> None:
    value = {"image_formats": "PNG,GIF", "max_message_bytes": "77777"}.get(limit, "777")
    config = parse(["--critic", "fake", FLAGS[limit], value])
    told = getattr(config, limit)
    assert told != getattr(Config(), limit)
    with RewardClient(f"127.0.0.1:{launch(critic='fake', **{limit: told}).port}") as client:
        assert getattr(client.model().limits, limit) == told


# Tiles --------------------------------------------------------------------------------------------

PUBLISHED = tuple((384 * across, 384 * down) for across in range(1, 7) for down in range(1, 7))
"""Grids of the published LLaVA-OneVision checkpoints."""


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_no_picture_is_cut_into_more_tiles_than_the_grids_allow(width: int, height: int) -> None:
    geometry = Geometry(tile=384, patch=14, grids=PUBLISHED)
    across, down = layout((width, height), geometry).grid_tiles
    assert 1 + across * down <= geometry.most_tiles == 37


def test_the_largest_grid_is_reached() -> None:
    geometry = Geometry(tile=384, patch=14, grids=PUBLISHED)
    picture = Image.new("RGB", (3000, 3000))
    assert len(tiles(picture, geometry)) == geometry.most_tiles


def test_the_bound_of_the_checkpoint_is_told(embedded_server: Server, address: str) -> None:
    config = json.loads((files("adjudge_server") / "embedded" / "config.json").read_text())
    side = config["vision_config"]["image_size"]
    expected = 1 + max(h * w for h, w in config["image_grid_pinpoints"]) // side**2
    with RewardClient(f"127.0.0.1:{embedded_server.port}") as client:
        assert client.model().limits.max_tiles == expected
    with RewardClient(address) as client:
        assert client.model().limits.max_tiles == 0, "the fake critic cuts nothing"


# Bytes of one message -----------------------------------------------------------------------------


def assert_too_large(error: RewardError, maximum: int) -> None:
    assert error.reason is ErrorReason.LIMIT_EXCEEDED
    assert error.metadata["limit"] == "max_message_bytes"
    assert error.metadata["maximum"] == str(maximum)
    assert int(error.metadata["actual"]) > maximum
    assert error.metadata["actual"] in error.message


def test_a_request_over_the_servers_limit_is_refused_with_both_numbers(launch: Launch) -> None:
    server = launch(critic="fake", max_message_bytes=4096)
    with (
        RewardClient(f"127.0.0.1:{server.port}") as client,
        pytest.raises(RequestRefused, match=r"the request .* the server") as refused,
    ):
        client.score("What is this?", ["x" * 5000])
    assert_too_large(refused.value, 4096)


def test_a_request_over_the_clients_own_limit_is_refused_with_both_numbers(address: str) -> None:
    with (
        RewardClient(address, max_message_bytes=4096) as client,
        pytest.raises(RequestRefused, match=r"the request .* the client") as refused,
    ):
        client.score("What is this?", ["x" * 5000])
    assert_too_large(refused.value, 4096)


def test_an_answer_over_the_clients_limit_is_refused_with_both_numbers(address: str) -> None:
    with (
        RewardClient(address, max_message_bytes=512) as client,
        pytest.raises(RequestRefused, match=r"the answer .* the client") as refused,
    ):
        client.model()
    assert_too_large(refused.value, 512)


def test_the_asynchronous_client_says_the_same(address: str) -> None:
    async def ask() -> None:
        async with AsyncRewardClient(address, max_message_bytes=4096) as client:
            await client.score("What is this?", ["x" * 5000])

    with pytest.raises(RequestRefused) as refused:
        asyncio.run(ask())
    assert_too_large(refused.value, 4096)


# Formats ------------------------------------------------------------------------------------------


def test_only_decoders_on_the_list_are_run(launch: Launch) -> None:
    with stub(launch(critic="fake", image_formats=("PNG",))) as service:
        assert list(model(service).limits.image_formats) == ["PNG"]
        assert service.ScoreCandidates(score_request("a", **pictured(encoded(noise(8, 8)))))
        jpeg = pictured(encoded(noise(8, 8), "JPEG"))
        with pytest.raises(grpc.RpcError) as refused:
            service.ScoreCandidates(score_request("a", **jpeg))
    error = error_from_rpc(refused.value)
    assert error.reason is ErrorReason.UNDECODABLE_IMAGE
    assert "PNG" in error.message and "JPEG" not in error.message


@pytest.mark.parametrize("formats", ["", "HEIC", "PNG,EPS", "PNG,,"])
def test_formats_that_are_not_to_be_had_are_named(
    formats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--image-formats", formats])
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "--image-formats" in complaint and formats.split(",")[-1] in complaint


# Bytes of all requests ----------------------------------------------------------------------------


WHITE = Image.new("RGB", (300, 300), "white")
"""1 kB as a file, 360 kB as pixels."""


@pytest.fixture(scope="module")
def roomless(launch: Launch) -> Server:
    return launch(critic="fake", max_open_bytes=600_000)


def test_what_pictures_decode_to_counts_and_who_finds_no_room_is_told_at_once(
    roomless: Server,
) -> None:
    request = score_request("a", **pictured(encoded(WHITE)))
    assert request.ByteSize() < 5_000
    with stub(roomless) as service:
        with busy(roomless):
            first = service.ScoreCandidates.future(request)
            wait_until(lambda: queued(roomless))
            assert 360_000 < roomless.open_bytes.total < 365_000
            for _ in range(3):
                began = time.monotonic()
                found = refusal(service, request)
                assert time.monotonic() - began < PATIENCE / 10
                assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
                assert found.metadata["limit"] == "max_open_bytes"
                assert found.metadata["maximum"] == "600000"
            with pytest.raises(grpc.RpcError) as refused:
                service.ScoreCandidates(request)
            assert error_from_rpc(refused.value).retry_after_seconds
            assert 360_000 < roomless.open_bytes.total < 365_000, "who was refused holds nothing"
        assert first.result(PATIENCE).outcomes[0].reward.HasField("reward")
        assert rewards(service, "a", **pictured(encoded(WHITE))), "there is room again"
    wait_until(lambda: roomless.open_bytes.total == 0)


def test_a_server_without_room_still_says_what_it_is_and_how_it_is(roomless: Server) -> None:
    with stub(roomless) as service, busy(roomless):
        waiting = service.ScoreCandidates.future(score_request("a" * 280_000 + " b"))
        wait_until(lambda: queued(roomless))
        assert refusal(service, score_request("c")).reason == "QUEUE_FULL"
        assert model(service).limits.max_open_bytes == 600_000
        with grpc.insecure_channel(f"127.0.0.1:{roomless.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        waiting.cancel()
    wait_until(lambda: roomless.open_bytes.total == 0)


def test_a_prompt_counts_once_for_each_query_that_repeats_it(roomless: Server) -> None:
    prompt = {"prompt": [turn("a" * 2_000)]}
    with stub(roomless) as service:
        assert len(rewards(service, *map(str, range(100)), **prompt)) == 100
        for request in (
            score_request(*map(str, range(200)), **prompt),
            compare_request(
                "a", "b", pairs=[(0, 1)] * 3 + [(1, 0)] * 3, prompt=[turn("a" * 200_000)]
            ),
            score_request("a", **pictured(encoded(Image.new("L", (400, 400))))),
        ):
            found = refusal(service, request)
            assert found.reason == "LIMIT_EXCEEDED"
            assert found.metadata["limit"] == "max_open_bytes"
            assert int(found.metadata["actual"]) > 600_000
    wait_until(lambda: roomless.open_bytes.total == 0)


def test_a_prompt_too_long_is_not_tokenised_for_every_candidate(embedded_server: Server) -> None:
    with stub(embedded_server) as service:
        maximum = model(service).limits.max_input_tokens
        prompt = {"prompt": [turn("word " * (maximum * 120 // 5))]}
        began = time.monotonic()
        scores(service, "a", **prompt)
        once = time.monotonic() - began
        began = time.monotonic()
        outcomes = scores(service, *["a"] * 256, **prompt)
        assert time.monotonic() - began < 20 * once + PATIENCE / 10
    assert all("INPUT_TOO_LONG" in str(outcome.error) for outcome in outcomes)


def test_what_was_cancelled_makes_room_at_once(roomless: Server) -> None:
    request = score_request("a", **pictured(encoded(WHITE)))
    with stub(roomless) as service, busy(roomless):
        for _ in range(5):
            waiting = service.ScoreCandidates.future(request)
            wait_until(lambda: roomless.open_bytes.total)
            waiting.cancel()
            wait_until(lambda: not roomless.open_bytes.total)


def test_a_client_waits_for_room_and_gets_its_reward(roomless: Server) -> None:
    picture = Image.new("RGB", (200, 200), "red")
    with RewardClient(f"127.0.0.1:{roomless.port}", timeout=PATIENCE) as client:
        prompts = [[picture, f"What is this, number {i}?"] for i in range(12)]
        with ThreadPoolExecutor(12) as threads:
            found = list(threads.map(lambda prompt: client.score(prompt, ["a"]), prompts))
    assert all(result.rewards[0] is not None for result in found)


@pytest.fixture(scope="module")
def narrow(launch: Launch) -> Server:
    return launch(critic="fake", max_streams=3)


def test_one_connection_has_no_more_calls_open_than_it_may(narrow: Server) -> None:
    def waiting(num_calls: int) -> int:
        """Tokens in the queue, of so many calls."""
        with busy(narrow):
            calls = [service.ScoreCandidates.future(score_request("a")) for _ in range(num_calls)]
            wait_until(lambda: queued(narrow))
            time.sleep(0.5)
            tokens = queued(narrow)
            for call in calls:
                call.cancel()
        wait_until(lambda: not queued(narrow))
        return tokens

    with stub(narrow) as service:
        model(service)  # after which gRPC's client knows the limit
        assert 3 * waiting(1) == waiting(10)  # in this order: gRPC refuses some after the latter


def test_a_client_with_more_calls_than_a_connection_takes_gets_every_reward(
    narrow: Server,
) -> None:
    with (
        RewardClient(f"127.0.0.1:{narrow.port}", timeout=PATIENCE) as client,
        ThreadPoolExecutor(16) as threads,
    ):
        found = list(threads.map(lambda i: client.score(f"{i}?", ["a"]), range(100)))
    assert all(result.rewards[0] is not None for result in found)
