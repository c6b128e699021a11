"""Which TCP addresses a server takes, told before gRPC would."""

import re
import socket
from collections.abc import Iterator

import pytest

from adjudge_server.access.tcp_address import check_free
from adjudge_server.config import Config
from tests.conftest import running


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        yield somebody.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_where_somebody_listens_nobody_else_does(host: str, taken: int) -> None:
    listen = f"{host}:{taken}"
    with pytest.raises(RuntimeError, match=f"^--listen {re.escape(listen)}: another server"):
        check_free(listen)


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("192.0.2.1:0", "Cannot assign requested address"),  # of the documents' own network
        ("nowhere.invalid:0", ".+"),  # a resolver's words
        (f"{'a' * 64}.invalid:0", ".+"),  # longer than a label may be
    ],
)
def test_an_address_that_is_not_this_machines_is_named_with_the_reason(
    listen: str, reason: str
) -> None:
    with pytest.raises(RuntimeError, match=f"^--listen {re.escape(listen)}: {reason}$"):
        check_free(listen)


def test_what_a_server_leaves_can_be_taken_again_at_once() -> None:
    """Its connections stay with the system for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            connection, _ = server.accept()
            connection.close()  # whoever hangs up first has it left over
    check_free(f"127.0.0.1:{port}")
    with running(Config(listen=f"127.0.0.1:{port}", critic="fake")) as again:
        assert again.port == port


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0"])
def test_any_free_port_is_free(listen: str) -> None:
    check_free(listen)
