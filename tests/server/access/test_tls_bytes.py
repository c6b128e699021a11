"""What a client without a good certificate is sent, byte for byte, which gRPC's own do not show."""

import contextlib
import socket
import ssl
from pathlib import Path

from adjudge_server.serve import Server
from tests.certificates import Certificates
from tests.conftest import Launch

MODEL_NAME = b"secret-critic"
_HEADERS = b"".join(
    # Literal, never indexed, with new names: RFC 7541, 6.2.3.
    b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/adjudge.v1.RewardService/GetModel"),
        (b":authority", b"127.0.0.1"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, 4.1."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


ASKING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(4, 0, 0, b"")  # SETTINGS
    + _frame(1, 4, 1, _HEADERS)  # HEADERS, END_HEADERS
    + _frame(0, 1, 1, bytes(5))  # DATA, END_STREAM: an empty message
)
"""What a client says that asks for the model, without waiting for anything."""


def received(server: Server, ca: Path, shown: tuple[Path, Path] | None) -> bytes:
    """All that a connection carries, decrypted, to one who shows a certificate and key, or none,
    and asks for the model. It may break."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        context.load_cert_chain(*shown)
    found = b""
    with (
        contextlib.suppress(OSError),  # SSLError is one
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sealed,
    ):
        sealed.sendall(ASKING)
        while MODEL_NAME not in found and (got := sealed.recv(65_536)):
            found += got
    return found


def test_not_a_byte_is_sent_to_a_client_without_a_good_certificate(
    launch: Launch, certificates: Certificates
) -> None:
    certificates.server()
    server = launch(
        critic="fake",
        name=MODEL_NAME.decode(),
        tls_cert=certificates.pem("server"),
        tls_key=certificates.key("server"),
        tls_client_ca=certificates.ca,
    )
    another = certificates.another()
    another.client()
    strangers = [
        None,
        (another.pem("client"), another.key("client")),
        *(
            (certificates.pem(name), certificates.key(name))
            for name in (certificates.client("expired", days=-1), certificates.server("not-one"))
        ),
    ]
    for shown in strangers:
        assert received(server, certificates.ca, shown) == b""
    name = certificates.client()
    known = certificates.pem(name), certificates.key(name)
    assert MODEL_NAME in received(server, certificates.ca, known), "else it proves nothing"
