"""What gRPC says about connections that TLS refused. It reports them as UNAVAILABLE, like a server
that is away, though no repetition helps; only its text tells them apart (measured with grpcio 1.71
and 1.85)."""

import re
from typing import Final

# "Ssl handshake failed" until 1.7x, "Tls handshake failed" since. Only with SSL_ERROR_SSL: other
# causes, such as a connection that broke meanwhile, are no verdict on the certificate.
_REFUSED: Final = re.compile(
    r"(?:[Ss]sl|[Tt]ls) handshake failed.*?SSL_ERROR_SSL(?:: error:\w+)?|"
    r"verification check failed|Hostname Verification Check failed|Peer name .* is not in peer cert"
)


def is_refused(details: str) -> bool:
    """Whether this side refused the other's certificate, or the other does not speak TLS."""
    return _REFUSED.search(details) is not None


def may_be_refused(details: str) -> bool:
    """Whether the other side may have: it only hangs up, as one that dies at that moment does."""
    return "failed to connect" in details and "Socket closed" in details
