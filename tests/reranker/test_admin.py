"""The client that changes a server, and its command, against a real server with the fake critic."""

import json
from pathlib import Path

import grpc
import pytest

from adjudge_reranker import AdminClient, RequestRefused, RewardClient, ServerUnavailable
from tests.conftest import Launch
from tests.reranker.test_cli import invoke


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "step-1").mkdir()
    return tmp_path


@pytest.fixture
def movable(launch: Launch, directory: Path) -> str:
    server = launch(critic="fake", enable_admin=True, weights_dir=(directory,))
    return f"127.0.0.1:{server.port}"


def test_loaded_weights_are_those_that_the_server_then_describes(
    movable: str, directory: Path
) -> None:
    with AdminClient(movable) as admin, RewardClient(movable) as client:
        before = client.score("Why?", ["so"])
        loaded = admin.load_weights(directory / "step-1", expected_epoch=0)
        after = client.score("Why?", ["so"])
        described = client.model()
    assert before.rewards != after.rewards
    assert (before.provenance.weights_epoch, after.provenance.weights_epoch) == (0, 1)
    assert loaded.weights_epoch == described.weights_epoch == 1
    assert loaded.fingerprint == described.fingerprint == after.provenance.model_fingerprint
    assert described.revision == "step-1"
    assert loaded.read_seconds is not None and loaded.read_seconds >= 0
    assert loaded.pause_seconds is not None and loaded.pause_seconds > 0


def test_what_is_refused_is_raised_with_its_reason(movable: str, directory: Path) -> None:
    with AdminClient(movable) as admin:
        with pytest.raises(RequestRefused) as epoch:
            admin.load_weights(directory, expected_epoch=3)
        with pytest.raises(RequestRefused) as path:
            admin.load_weights(directory.parent)
        with pytest.raises(RequestRefused) as model:
            admin.load_weights(directory, model="another")
    reasons = [caught.value.reason for caught in (epoch, path, model)]
    assert reasons == ["WRONG_EPOCH", "PATH_NOT_ALLOWED", "UNKNOWN_MODEL"]


def test_a_server_without_the_flag_refuses(address: str, directory: Path) -> None:
    with AdminClient(address) as admin, pytest.raises(RequestRefused) as refused:
        admin.load_weights(directory)
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED
    told = invoke(address, "load-weights", directory)
    assert told.exit_code == 2 and "--enable-admin" in told.stderr


def test_a_relative_path_starts_where_the_caller_works(
    movable: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    with AdminClient(movable) as admin:
        assert admin.load_weights("step-1").weights_epoch == 1


def test_nothing_is_repeated_and_nothing_done_after_closing(directory: Path) -> None:
    admin = AdminClient("127.0.0.1:1", timeout=20.0)
    with pytest.raises(ServerUnavailable):
        admin.load_weights(directory)
    admin.close()
    with pytest.raises(RuntimeError):
        admin.load_weights(directory)


def test_the_command_loads_and_says_what_is_served(movable: str, directory: Path) -> None:
    result = invoke(movable, "load-weights", directory / "step-1", "--expected-epoch", "0")
    (record,) = (json.loads(line) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert record["weights_epoch"] == 1
    with RewardClient(movable) as client:
        assert client.model().fingerprint == record["fingerprint"]
    table = invoke(movable, "load-weights", directory / "step-1", "--format", "table")
    assert "weights epoch: 2" in table.stdout


def test_the_command_says_why_not(movable: str, directory: Path) -> None:
    refused = invoke(movable, "load-weights", directory, "--expected-epoch", "9")
    assert refused.exit_code == 2
    assert "WRONG_EPOCH" in refused.stderr
    unreachable = invoke("127.0.0.1:1", "load-weights", directory)
    assert unreachable.exit_code == 3


def test_a_name_that_stands_for_several_servers_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"dns:///critic\.test:7: stands for all"):
        AdminClient("dns:///critic.test:7")
    refused = invoke("dns:///critic.test:7", "load-weights", directory)
    assert refused.exit_code == 2 and "stands for all" in refused.stderr


@pytest.mark.parametrize("epoch", [-1, 2**64, "1", 1.5])
def test_what_is_no_epoch_is_told_by_its_name_before_anything_is_sent(epoch: object) -> None:
    with (
        AdminClient("127.0.0.1:1") as admin,
        pytest.raises((ValueError, TypeError), match="expected_epoch"),
    ):
        admin.load_weights("/step-1", expected_epoch=epoch)  # type: ignore[arg-type]
