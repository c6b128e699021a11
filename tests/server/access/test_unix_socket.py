"""A socket in the file system as the address, with the program itself."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import RewardClient, Tls
from adjudge_server.access import unix_socket
from adjudge_server.access.unix_socket import path_of
from adjudge_server.config import Config
from tests.certificates import Certificates
from tests.server.access.conftest import new_token, secret_file
from tests.server.watched import Watched, watched


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "adjudge.sock"


@contextmanager
def server_at(path: Path, *flags: str) -> Iterator[Watched]:
    """The last --listen counts."""
    log = path.with_name("log")
    with watched(log, "--critic", "fake", "--listen", f"unix:{path}", *flags) as server:
        yield server


def ended_at_once(path: Path) -> str:
    """What a server says that does not start."""
    flags = ("--critic", "fake", "--listen", f"unix:{path}")
    command = [sys.executable, "-m", "adjudge_server", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


def test_a_client_is_served_through_a_socket_that_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)  # which would let everybody in
    try:
        with server_at(path) as server, RewardClient(server.address) as client:
            assert server.address == f"unix:{path}"
            assert stat.filemode(path.stat().st_mode) == "srw-------"
            assert None not in client.score("Why?", ["a", "b"]).rewards
    finally:
        os.umask(before)


def test_a_socket_takes_tokens_and_tls_like_any_address(path: Path, tmp_path: Path) -> None:
    token = new_token()
    certificates = Certificates(tmp_path / "certificates")
    certificates.server(hosts=("critic.example.com",))
    flags = {
        "--tokens": secret_file(tmp_path / "tokens", token),
        "--tls-cert": certificates.pem("server"),
        "--tls-key": certificates.key("server"),
    }
    tls = Tls(certificates.ca, server_name="critic.example.com")
    words = [str(word) for flag in flags.items() for word in flag]
    with (
        server_at(path, *words) as server,
        RewardClient(server.address, token=token, tls=tls) as client,
    ):
        assert client.model().name == "fake"


def test_a_living_servers_socket_is_not_taken_and_a_dead_ones_is(path: Path) -> None:
    with server_at(path) as server:
        assert "another server listens there" in ended_at_once(path)
        with RewardClient(server.address) as client:
            assert client.model().name == "fake"
    assert path.is_socket(), "it was killed, and could not clear away"
    with server_at(path) as server, RewardClient(server.address) as client:
        assert client.model().name == "fake"


def test_of_servers_that_start_together_one_is_let_in(path: Path) -> None:
    with unix_socket.for_its_owner(path):  # the first has made room and not yet bound
        assert "another server listens there" in ended_at_once(path)


def test_a_server_that_is_not_let_in_holds_no_lock(path: Path) -> None:
    path.write_text("something dear")
    with pytest.raises(ValueError, match="no socket"), unix_socket.for_its_owner(path):
        pass
    path.unlink()
    with server_at(path) as server, RewardClient(server.address) as client:
        assert client.model().name == "fake"


def test_what_is_no_socket_is_left_where_it_is(path: Path) -> None:
    path.write_text("something dear")
    assert "there is a file that is no socket" in ended_at_once(path)
    assert path.read_text() == "something dear"
    path.unlink()
    path.symlink_to(path.with_name("elsewhere"))
    assert "there is a file that is no socket" in ended_at_once(path)


def test_a_directory_that_is_not_there_is_told(path: Path) -> None:
    assert "adjudge-server: " in ended_at_once(path / "below")


def test_a_server_that_is_told_to_stop_clears_its_socket_away(path: Path) -> None:
    flags = ("--critic", "fake", "--listen", f"unix:{path}")
    command = [sys.executable, "-m", "adjudge_server", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline()
        server.terminate()
    assert server.returncode == 0 and not path.exists()


@given(st.lists(st.text("abc. é", min_size=1), min_size=1).map("/".join))
def test_a_path_is_what_comes_after_the_scheme(path: str) -> None:
    if len(os.fsencode(path)) < 107:
        assert path_of(f"unix:/{path}") == path_of(f"unix:///{path}") == Path(f"/{path}")
    else:
        with pytest.raises(ValueError, match="has at most 107 bytes"):
            path_of(f"unix:/{path}")


@pytest.mark.parametrize(
    "listen", ["unix:", "unix:relative", "unix://host/path", "unix:/", "unix:/a/", "unix:/a\0b"]
)
def test_what_is_no_path_of_a_file_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="must be unix: and the absolute path of a file"):
        Config(listen=listen)


def test_a_socket_without_a_file_has_no_permissions_and_is_refused() -> None:
    with pytest.raises(ValueError, match="--listen unix-abstract:adjudge"):
        Config(listen="unix-abstract:adjudge")


def test_whoever_opens_the_socket_may_be_admin_as_on_loopback(tmp_path: Path) -> None:
    Config(listen="unix:/run/a.sock", enable_admin=True, weights_dir=(tmp_path,))
    with pytest.raises(ValueError, match="--enable-admin with --tokens needs --admin-tokens"):
        Config(
            listen="unix:/run/a.sock",
            enable_admin=True,
            weights_dir=(tmp_path,),
            tokens=tmp_path / "tokens",
        )


def test_the_longest_path_can_be_bound() -> None:
    longest = f"{tempfile.gettempdir()}/".ljust(107, "a")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(longest)
        Path(longest).unlink()
    path_of(f"unix:{longest}")
    with pytest.raises(ValueError, match="at most 107"):
        path_of(f"unix:{longest}a")
