"""Certificates that are renewed while a client lives, against real servers with real ones."""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import (
    AdminClient,
    AsyncRewardClient,
    Provenance,
    RewardClient,
    RewardError,
    ServerUnavailable,
    Tls,
)
from adjudge_reranker.renewal import READ_AGAIN_SECONDS, RETIRED_SECONDS, Renewed
from adjudge_server.config import Config
from adjudge_server.serve import Server
from tests.certificates import Certificates
from tests.conftest import running
from tests.server.test_service import wait_until

Ask = Callable[[], str]
Connected = Callable[[str, Tls], AbstractContextManager[Ask]]


@contextmanager
def blocking(address: str, tls: Tls) -> Iterator[Ask]:
    with RewardClient(address, tls=tls) as client:
        yield lambda: client.model().name


@contextmanager
def in_a_loop(address: str, tls: Tls) -> Iterator[Ask]:
    loop = asyncio.new_event_loop()
    client = AsyncRewardClient(address, tls=tls)
    yield lambda: loop.run_until_complete(client.model()).name
    loop.run_until_complete(client.close())
    loop.close()


def authority(directory: Path) -> Certificates:
    directory.mkdir()
    certificates = Certificates(directory)
    certificates.server()
    certificates.client()
    return certificates


@contextmanager
def server_of(
    certificates: Certificates, port: int = 0, host: str = "127.0.0.1"
) -> Iterator[Server]:
    """One that trusts, and is trusted by, nobody but that authority's clients."""
    config = Config(
        listen=f"{host}:{port}",
        critic="fake",
        drain_seconds=5.0,
        tls_cert=certificates.pem("server"),
        tls_key=certificates.key("server"),
        tls_client_ca=certificates.ca,
    )
    with running(config) as server:
        yield server


def tls_in(directory: Path) -> Tls:
    return Tls(directory / "ca.pem", directory / "client.pem", directory / "client.key")


def replace(directory: Path, certificates: Certificates, *names: str) -> None:
    directory.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(certificates.directory / name, directory / name)


@pytest.mark.parametrize("connected", [blocking, in_a_loop])
def test_a_living_client_takes_its_renewed_certificate_and_authority(
    connected: Connected, tmp_path: Path
) -> None:
    old, new = authority(tmp_path / "old"), authority(tmp_path / "new")
    own, left = tmp_path / "own", tmp_path / "left"
    for directory in (own, left):
        replace(directory, old, "ca.pem", "client.pem", "client.key")
    with ExitStack() as stack:
        with server_of(old) as server:
            address = f"127.0.0.1:{server.port}"
            ask = stack.enter_context(connected(address, tls_in(own)))
            ask_as_before = stack.enter_context(connected(address, tls_in(left)))
            assert ask() == ask_as_before() == "fake"
            replace(own, new, "client.pem")  # halfway: it does not fit the key
            time.sleep(READ_AGAIN_SECONDS + 0.1)
            assert ask() == "fake"
            replace(own, new, "ca.pem", "client.key")
            time.sleep(READ_AGAIN_SECONDS + 0.1)
        with server_of(new, server.port):
            assert ask() == "fake"
            with pytest.raises(RewardError, match="TLS handshake failed"):
                ask_as_before()


@pytest.mark.parametrize("connected", [blocking, in_a_loop])
def test_a_server_that_appears_while_files_are_half_replaced_is_reached_once_they_are_whole(
    connected: Connected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, real = ["127.0.0.1"], socket.getaddrinfo

    def look_up(host: str, port: int, **options):
        if host != "localhost":
            return real(host, port, **options)
        return [(socket.AF_INET, 1, 6, "", (found, port)) for found in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("adjudge_reranker.names.REFRESH_SECONDS", 0.0)
    old, new = authority(tmp_path / "old"), authority(tmp_path / "new")
    own = tmp_path / "own"
    replace(own, old, "ca.pem", "client.pem", "client.key")
    with ExitStack() as stack:
        with server_of(old) as server:
            address = f"dns:///localhost:{server.port}"
            ask = stack.enter_context(connected(address, tls_in(own)))
            assert ask() == "fake"
        hosts[:] = ["127.0.0.2"]
        stack.enter_context(server_of(new, server.port, "127.0.0.2"))
        replace(own, new, "ca.pem", "client.pem")
        (own / "client.key").unlink()
        whole = threading.Timer(1.0, replace, (own, new, "client.key"))
        whole.start()
        stack.callback(whole.join)
        assert ask() == "fake"


def test_files_that_stay_broken_are_named_by_an_error_that_may_pass(tmp_path: Path) -> None:
    certificates, own = authority(tmp_path / "authority"), tmp_path / "own"
    replace(own, certificates, "ca.pem", "client.pem", "client.key")
    with (
        RewardClient("127.0.0.1:1", tls=tls_in(own), timeout=0.5) as client,
        AdminClient("127.0.0.1:1", tls=tls_in(own)) as admin,
    ):
        (own / "client.key").write_text("half")
        for call in (client.model, lambda: admin.load_weights(tmp_path)):
            with pytest.raises(ServerUnavailable, match=r"client\.key"):
                call()
    with pytest.raises(ValueError, match=r"client\.key"):
        RewardClient("127.0.0.1:1", tls=tls_in(own))


def test_calls_under_way_go_on_over_the_connection_that_they_were_made_on(tmp_path: Path) -> None:
    certificates = authority(tmp_path / "authority")
    own = tmp_path / "own"
    replace(own, certificates, "ca.pem", "client.pem", "client.key")
    with ExitStack() as stack:
        server = stack.enter_context(server_of(certificates))
        address = f"127.0.0.1:{server.port}"
        client = stack.enter_context(RewardClient(address, tls=tls_in(own)))
        events = client.critique("Why?", ["a"] * 8)
        seen = [next(events)]
        certificates.client()
        replace(own, certificates, "client.pem", "client.key")
        time.sleep(READ_AGAIN_SECONDS + 0.1)
        assert client.model().name == "fake"
        seen += events
        indices = {event.index for event in seen if not isinstance(event, Provenance)}
        assert indices == set(range(8))


@pytest.mark.parametrize("connected", [blocking, in_a_loop])
def test_connections_that_were_renewed_are_closed_in_time(
    connected: Connected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adjudge_reranker.renewal.RETIRED_SECONDS", 0.0)
    certificates = authority(tmp_path / "authority")
    own = tmp_path / "own"
    replace(own, certificates, "ca.pem", "client.pem", "client.key")
    with (
        server_of(certificates) as server,
        connected(f"127.0.0.1:{server.port}", tls_in(own)) as ask,
    ):
        assert ask() == "fake"
        num_sockets = len(sockets(server.port))
        for _ in range(2):
            certificates.client()
            replace(own, certificates, "client.pem", "client.key")
            time.sleep(READ_AGAIN_SECONDS + 0.1)
            assert ask() == "fake"
            wait_until(lambda: ask() == "fake" and len(sockets(server.port)) == num_sockets)


def sockets(port: int) -> list[str]:
    """Established connections of this machine to or from a port: proc(5), /proc/net/tcp."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = [line.split()[1:4] for line in lines]
    ours = f":{port:04X}"
    return [a for a, b, state in ends if state == "01" and (a.endswith(ours) or b.endswith(ours))]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 2 * RETIRED_SECONDS))))
def test_each_is_made_of_the_newest_files_and_closed_once(steps: list[tuple[str, float]]) -> None:
    clock, files = Clock(), ["a"]
    made: list[str] = []
    closed: list[str] = []

    def make() -> str:
        made.append(f"{files[0]} {len(made)}")
        return made[-1]

    renewed = Renewed(make, lambda: files[0], clock=clock)
    for content, seconds in steps:
        files[0] = content
        clock.now += seconds
        assert renewed.get()[0] == content or seconds < READ_AGAIN_SECONDS
        closed += renewed.outlived()
        assert renewed.get() not in closed
    assert sorted(closed + renewed.end()) == sorted(made)


def test_what_cannot_be_read_or_used_leaves_the_last_one(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "file"
    path.write_text("1")
    renewed = Renewed(lambda: int(path.read_text()), path.read_bytes, clock=clock)
    for content, expected in (("half", 1), (None, 1), ("2", 2)):
        path.unlink()
        if content is not None:
            path.write_text(content)
        clock.now += READ_AGAIN_SECONDS
        assert renewed.get() == expected
        path.touch()
    assert renewed.end() == [2, 1]


class Changed:
    """Files that changed a while ago, and what else happens while that is noticed."""

    def __init__(self) -> None:
        self.clock, self.made, self.files = Clock(), [], [1]
        self.meanwhile: Callable[[], object] = lambda: None
        self.renewed = Renewed(self._make, lambda: self.files[0], clock=self.clock)
        self.files[0], self.clock.now = 2, READ_AGAIN_SECONDS

    def _make(self) -> int:
        self.meanwhile()
        self.made.append(self.files[0])
        return len(self.made)


def test_one_thread_renews_and_the_others_do_not_wait_for_it() -> None:
    changed, seen = Changed(), []

    def another() -> None:
        changed.meanwhile = lambda: None
        changed.clock.now += READ_AGAIN_SECONDS  # the first takes its time
        thread = threading.Thread(target=lambda: seen.append(changed.renewed.get()))
        thread.start()
        thread.join()

    changed.meanwhile = another
    assert changed.renewed.get() == 2
    assert seen == [1] and changed.made == [1, 2]
    assert changed.renewed.end() == [2, 1]


def test_what_is_renewed_while_all_is_ended_is_closed_too() -> None:
    changed, ended = Changed(), []
    ends = threading.Thread(target=lambda: ended.extend(changed.renewed.end()))

    def end() -> None:
        ends.start()
        ends.join(0.5)  # it waits for what is being made, which waits here

    changed.meanwhile = end
    changed.renewed.get()
    ends.join()
    assert sorted(ended) == list(range(1, len(changed.made) + 1)) == [1, 2]
    changed.files[0], changed.clock.now = 3, 2 * READ_AGAIN_SECONDS
    changed.renewed.get()
    assert changed.made == [1, 2]


def test_what_was_renewed_is_closed_after_a_while_and_not_before() -> None:
    clock, files = Clock(), [1]
    renewed = Renewed(lambda: files[0], lambda: files[0], clock=clock)
    files[0], clock.now = 2, READ_AGAIN_SECONDS
    assert renewed.get() == 2
    clock.now += RETIRED_SECONDS
    assert renewed.outlived() == []
    clock.now += 0.1
    assert renewed.outlived() == [1]
    assert renewed.outlived() == [] and renewed.end() == [2]
