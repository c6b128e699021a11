"""Tokens over real channels: strangers get nothing, and each kind of token opens its own."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from adjudge.v1 import admin_pb2, reward_pb2, reward_pb2_grpc
from adjudge_server.serve import Server
from tests.conftest import Launch
from tests.server.access.conftest import new_token, secret_file

TOKEN, ADMIN, BOTH = new_token(), new_token(), new_token()
FILES = (reward_pb2, admin_pb2, health_pb2, reflection_pb2)
METHODS = [
    (method.containing_service.full_name, method)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
METADATA_OF_STRANGERS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "wrong": (("authorization", f"Bearer {new_token()}"),),
    "beginning of a right one": (("authorization", f"Bearer {TOKEN[:-1]}"),),
    "more than a right one": (("authorization", f"Bearer {TOKEN}x"),),
    "empty": (("authorization", "Bearer "),),
    "another scheme": (("authorization", f"Basic {TOKEN}"),),
    "no scheme": (("authorization", TOKEN),),
    "a wrong and a right one": (
        ("authorization", f"Bearer {new_token()}"),
        ("authorization", f"Bearer {TOKEN}"),
    ),
    "a right and a wrong one": (
        ("authorization", f"Bearer {TOKEN}"),
        ("authorization", f"Bearer {new_token()}"),
    ),
    "in another place": (("x-authorization", f"Bearer {TOKEN}"), ("token", TOKEN)),
}
Call = Any


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokens")
    secret_file(directory / "tokens", TOKEN, BOTH)
    secret_file(directory / "admin", ADMIN, BOTH)
    return directory


@pytest.fixture(scope="module")
def closed(launch: Launch, directory: Path) -> Server:
    """A server where everything needs a token."""
    return launch(
        critic="fake",
        name="secret-critic",
        tokens=directory / "tokens",
        enable_admin=True,
        weights_dir=(directory,),
        admin_tokens=directory / "admin",
        closed_health=True,
    )


@pytest.fixture(scope="module")
def channel(closed: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{closed.port}") as channel:
        yield channel


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def call(channel: grpc.Channel, service: str, method: Any, metadata: Any, body: bytes = b"") -> Any:
    """What a method answers first, as bytes."""
    path, options = f"/{service}/{method.name}", {"metadata": metadata, "timeout": 20.0}
    if method.client_streaming:
        return next(channel.stream_stream(path)(iter([body]), **options))
    if method.server_streaming:
        return next(channel.unary_stream(path)(body, **options))
    return channel.unary_unary(path)(body, **options)


def opened(channel: grpc.Channel, metadata: Any) -> set[str]:
    """The last words of the services that answer, be it that a request is wrong."""
    services: dict[str, set[bool]] = {}
    for service, method in METHODS:
        is_open = True
        try:
            call(channel, service, method, metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                needs = "admin token" if service == "adjudge.v1.AdminService" else "token"
                assert refusal(error).metadata == {"needs": needs}
                is_open = False
        services.setdefault(service.rpartition(".")[2], set()).add(is_open)
    assert all(len(answers) == 1 for answers in services.values()), services
    return {service for service, answers in services.items() if True in answers}


def refusal(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The one thing that strangers are told."""
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    trailers = dict(error.trailing_metadata())
    details = status_pb2.Status.FromString(trailers.pop("grpc-status-details-bin"))
    assert not list(error.initial_metadata() or ())
    assert b"secret-critic" not in repr((error.details(), trailers, details)).encode()
    info = error_details_pb2.ErrorInfo()
    assert details.details[0].Unpack(info)
    assert info.reason == "ERROR_REASON_UNAUTHENTICATED"
    return info


def test_the_services_that_are_tried_are_those_that_are_served(closed: Server) -> None:
    served = {service for service, _ in METHODS}
    assert served == {
        "adjudge.v1.RewardService",
        "adjudge.v1.AdminService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert {method.name for _, method in METHODS} >= {"CritiqueCandidates", "Watch", "LoadWeights"}


@pytest.mark.parametrize(
    "metadata", METADATA_OF_STRANGERS.values(), ids=METADATA_OF_STRANGERS.keys()
)
@pytest.mark.parametrize(("service", "method"), METHODS, ids=lambda m: getattr(m, "name", m))
def test_every_method_is_closed_to_strangers(
    channel: grpc.Channel, service: str, method: Any, metadata: Any
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, service, method, metadata)
    refusal(refused.value)


@pytest.mark.parametrize(
    "path",
    [
        "/adjudge.v1.RewardService/Nothing",
        "/adjudge.v1.AdminService/Nothing",
        "/grpc.health.v1.Health/Nothing",
        "//adjudge.v1.RewardService/GetModel",
        "/no.Service/None",
        "/",
    ],
)
def test_what_does_not_exist_is_closed_to_strangers_and_unknown_to_others(
    channel: grpc.Channel, path: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(path)(b"", timeout=20.0)
    refusal(refused.value)
    with pytest.raises(grpc.RpcError) as unknown:
        channel.unary_unary(path)(b"", timeout=20.0, metadata=bearer(BOTH))
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("body", [b"\xff not protobuf", b"\x0a" * 1_000_000])
def test_a_strangers_request_is_refused_whatever_it_says(
    channel: grpc.Channel, body: bytes
) -> None:
    for service, method in METHODS:
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, service, method, (), body)
        refusal(refused.value)


def test_a_stranger_who_sends_nothing_is_not_waited_for(channel: grpc.Channel) -> None:
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(20.0)
        yield b""

    try:
        with pytest.raises(grpc.RpcError) as refused:
            list(channel.stream_stream("/adjudge.v1.RewardService/GetModel")(nothing(), timeout=10))
        refusal(refused.value)
    finally:
        silent.set()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_opens_all_but_the_admin_methods(channel: grpc.Channel, scheme: str) -> None:
    metadata = (("authorization", f"{scheme} {TOKEN}"),)
    stub = reward_pb2_grpc.RewardServiceStub(channel)
    model = stub.GetModel(reward_pb2.GetModelRequest(), metadata=metadata, timeout=20.0)
    assert model.model.name == "secret-critic"
    assert opened(channel, metadata) == {"RewardService", "Health", "ServerReflection"}


def test_an_admin_token_opens_the_admin_methods_and_health_alone(channel: grpc.Channel) -> None:
    assert opened(channel, bearer(ADMIN)) == {"AdminService", "Health"}


def test_a_token_of_both_files_opens_both(channel: grpc.Channel) -> None:
    everything = {"RewardService", "AdminService", "Health", "ServerReflection"}
    assert opened(channel, bearer(BOTH)) == everything


def test_health_is_open_by_choice_and_nothing_else_is(launch: Launch, directory: Path) -> None:
    server = launch(critic="fake", tokens=directory / "tokens")
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for answer in (
            health.Check(health_pb2.HealthCheckRequest(), timeout=20.0),
            next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20.0)),
        ):
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for service, method in METHODS:
            if service != "grpc.health.v1.Health":
                with pytest.raises(grpc.RpcError) as refused:
                    call(channel, service, method, ())
                refusal(refused.value)


def test_admin_tokens_alone_leave_the_rest_open(launch: Launch, directory: Path) -> None:
    server = launch(
        critic="fake",
        enable_admin=True,
        weights_dir=(directory,),
        admin_tokens=directory / "admin",
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert opened(channel, ()) == {"RewardService", "Health", "ServerReflection"}


def test_tokens_change_while_calls_go_on(
    launch: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = new_token(), new_token()
    path = secret_file(tmp_path / "tokens", old)
    server = launch(critic="fake", tokens=path)

    def opens(token: str) -> bool:
        try:
            stub.GetModel(reward_pb2.GetModelRequest(), metadata=bearer(token), timeout=20.0)
        except grpc.RpcError as error:
            refusal(error)
            return False
        return True

    def within_seconds(*expected: bool) -> bool:
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            if (opens(old), opens(new)) == expected:
                return True
            time.sleep(0.05)
        return False

    with (
        caplog.at_level(logging.DEBUG),
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        assert (opens(old), opens(new)) == (True, False)
        secret_file(path, old, new)
        assert within_seconds(True, True)
        for broken in ("", "# nobody\n", "short\n", new[:10] + " " + new[10:]):
            path.write_text(broken)
            time.sleep(1.1)
            assert (opens(old), opens(new)) == (True, True), "what is broken changes nothing"
        path.unlink()
        time.sleep(1.1)
        assert (opens(old), opens(new)) == (True, True)
        secret_file(path, new)
        assert within_seconds(False, True)
    assert "holds no token" in caplog.text and "is no token" in caplog.text
    assert old not in caplog.text and new not in caplog.text and new[:10] not in caplog.text


def test_a_bad_file_of_tokens_ends_the_start(tmp_path: Path, launch: Launch) -> None:
    path = secret_file(tmp_path / "tokens", new_token())
    path.chmod(0o644)
    with pytest.raises(ValueError, match="open to every user"):
        launch(critic="fake", tokens=path)
