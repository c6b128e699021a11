"""`adjudge health`, as probes and supervisors use it."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.certificates import Certificates
from tests.conftest import Launch
from tests.reranker.scripted import serving
from tests.reranker.test_cli import invoke
from tests.server.access.conftest import new_token, secret_file

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME"):
        monkeypatch.delenv(f"ADJUDGE_{name}", raising=False)


@pytest.fixture
def unwell() -> Iterator[str]:
    """Where a server listens that answers for its health only, and that it does not serve."""
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("adjudge.v1.RewardService", NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("service", ["adjudge.v1.RewardService", ""])
def test_a_server_that_serves_is_0(address: str, service: str) -> None:
    result = invoke(address, "health", "--service", service)
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")


def test_one_that_does_not_is_3(unwell: str) -> None:
    result = invoke(unwell, "health")
    assert (result.exit_code, result.stdout) == (3, "NOT_SERVING\n")


def test_one_that_is_not_there_is_3_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = invoke(f"127.0.0.1:{free.getsockname()[1]}", "health", "--timeout", "60")
    assert result.exit_code == 3 and result.stdout == "" and "UNAVAILABLE" in result.stderr


def test_one_that_does_not_answer_in_time_is_4() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        result = invoke(f"127.0.0.1:{deaf.getsockname()[1]}", "health", "--timeout", "0.3")
    assert result.exit_code == 4


@pytest.mark.parametrize("service", ["adjudge.v1.NoService", "adjudge"])
def test_a_service_that_the_server_does_not_have_is_2(address: str, service: str) -> None:
    result = invoke(address, "health", "--service", service)
    assert result.exit_code == 2 and f"no service {service!r}" in result.stderr


def test_the_health_of_one_model_has_a_name_of_its_own(address: str) -> None:
    result = invoke(address, "health", "--service", "adjudge.v1.RewardService/fake")
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")
    assert "RewardService/NAME" in " ".join(invoke(address, "health", "--help").stdout.split())


def test_a_url_is_told_to_be_none_of_the_servers_addresses() -> None:
    result = invoke("http://127.0.0.1:1", "health")
    assert result.exit_code == 2 and "without http://" in result.stderr


def test_a_server_without_health_is_2() -> None:
    with serving() as service:
        result = invoke(service.address, "health")
    assert result.exit_code == 2 and "nothing of its health" in result.stderr


def test_closed_health_opens_to_a_token_and_over_tls(tmp_path, launch: Launch) -> None:
    made = Certificates(tmp_path)
    made.server()
    token = new_token()
    tokens = secret_file(tmp_path / "tokens", token)
    server = launch(
        critic="fake",
        tokens=tokens,
        closed_health=True,
        tls_cert=made.pem("server"),
        tls_key=made.key("server"),
    )
    address = f"localhost:{server.port}"
    trusting = ["--tls-ca", str(made.ca)]
    mine, wrong = tmp_path / "mine", tmp_path / "wrong"
    mine.write_text(token)
    wrong.write_text(new_token())
    assert invoke(address, *trusting, "--token-file", mine, "health").exit_code == 0
    refused = invoke(address, *trusting, "health")
    assert refused.exit_code == 2 and "UNAUTHENTICATED" in refused.stderr
    assert invoke(address, *trusting, "--token-file", wrong, "health").exit_code == 2
    plain = invoke(address, "health")
    assert plain.exit_code == 3 and "wants TLS" in plain.stderr
