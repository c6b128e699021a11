"""Whoever may scrape the metrics learns numbers, and can do no harm."""

import contextlib
import random
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from adjudge_reranker import RequestRefused, RewardClient, RewardError
from adjudge_server.observing.endpoint import MAX_CALLERS
from adjudge_server.serve import Server
from tests.conftest import SEVEN, Launch
from tests.server.access.conftest import new_token, secret_file

PATIENCE = 30.0
TOKEN = new_token()
PROMPT, CANDIDATE = "a-prompt-that-nobody-else-asks", "a-candidate-that-nobody-else-gives"


@pytest.fixture(scope="module")
def server(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokens = secret_file(tmp_path_factory.mktemp("tokens") / "tokens", TOKEN)
    yield launch(critic="fake", tokens=tokens, metrics_listen="127.0.0.1:0", max_candidates=3)


def scraped(server: Server) -> str:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=20.0) as answer:
        return str(answer.read().decode())


def test_metrics_show_no_token_and_nothing_that_was_asked(server: Server) -> None:
    wrong = new_token()
    address = f"127.0.0.1:{server.port}"
    with RewardClient(address, token=TOKEN) as client:
        client.score([SEVEN, PROMPT], [CANDIDATE, "b"])
        client.compare(PROMPT, [CANDIDATE, "b"], [(0, 1)])
        list(client.critique(PROMPT, [CANDIDATE]))
        for bad in ({"template": PROMPT}, {"model": PROMPT}, {"rubric": PROMPT}):
            with contextlib.suppress(RewardError):
                client.score(PROMPT, [CANDIDATE], **bad)  # type: ignore[arg-type]
    with RewardClient(address, token=wrong) as stranger, pytest.raises(RequestRefused):
        stranger.score(PROMPT, [CANDIDATE])
    end = time.monotonic() + PATIENCE  # a caller has its answer before it is counted
    while "UNAUTHENTICATED" not in (shown := scraped(server)) and time.monotonic() < end:
        time.sleep(0.05)
    assert "adjudge_requests_total" in shown and "UNAUTHENTICATED" in shown
    for secret in (TOKEN, wrong, PROMPT, CANDIDATE, str(server.config.tokens)):
        assert secret not in shown


def test_callers_of_the_metrics_that_break_off_write_nothing(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = random.Random(1).randbytes(3000)
    said = [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n", noise, b"GET " + b"/" * 70_000]
    assert server.metrics_port is not None
    for text in said * 10:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", server.metrics_port), 20.0) as connection,
        ):
            connection.sendall(text)
            # Hang up without a farewell.
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert "adjudge_requests_total" in scraped(server)
    written = capfd.readouterr()
    assert "Traceback" not in written.err and "Exception" not in written.err


def test_a_caller_that_says_nothing_is_hung_up_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adjudge_server.observing.endpoint._Handler.timeout", 0.2)
    assert server.metrics_port is not None
    with socket.create_connection(("127.0.0.1", server.metrics_port), 20.0) as connection:
        assert connection.recv(1) == b""


def test_a_caller_that_says_a_byte_now_and_then_is_hung_up_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adjudge_server.observing.endpoint._Handler.timeout", 1.0)
    assert server.metrics_port is not None
    give_up = time.monotonic() + PATIENCE
    with (
        socket.create_connection(("127.0.0.1", server.metrics_port), 0.1) as connection,
        pytest.raises(ConnectionError),
    ):
        while time.monotonic() < give_up:  # each within the time that one byte has
            connection.sendall(b"G")
            time.sleep(0.1)
    assert "adjudge_requests_total" in scraped(server)


def test_callers_of_the_metrics_are_so_many_threads_at_most(server: Server) -> None:
    assert server.metrics_port is not None
    address = ("127.0.0.1", server.metrics_port)
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        callers = [
            stack.enter_context(socket.create_connection(address, PATIENCE))
            for _ in range(MAX_CALLERS + 8)
        ]
        for caller in callers[MAX_CALLERS:]:
            with contextlib.suppress(ConnectionError):
                assert caller.recv(1) == b""
        assert threading.active_count() <= before + MAX_CALLERS
    end = time.monotonic() + PATIENCE
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert "adjudge_requests_total" in scraped(server)


def test_nothing_but_reading_is_possible(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE"):
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        request = urllib.request.Request(url, data=b"x=1", method=method)
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=20.0).read()
    assert "adjudge_requests_total" in scraped(server)


def test_no_file_is_served(server: Server) -> None:
    for path in ("/etc/passwd", "/../../etc/passwd", "//etc/passwd"):
        url = f"http://127.0.0.1:{server.metrics_port}{path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=20.0) as answer:
            assert b"root:" not in answer.read()
