"""How a client shows who it is, and makes sure who answers: a bearer token, TLS.

What no argument says comes from the environment, so that a program that makes its own clients needs
no change: ADJUDGE_TOKEN or ADJUDGE_TOKEN_FILE (for `AdminClient`, ADJUDGE_ADMIN_TOKEN and
ADJUDGE_ADMIN_TOKEN_FILE go first), ADJUDGE_TOKEN_OVER_PLAINTEXT=1, and ADJUDGE_TLS_CA,
ADJUDGE_TLS_CERT, ADJUDGE_TLS_KEY and ADJUDGE_TLS_SERVER_NAME.
"""

import contextlib
import ipaddress
import os
import re
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from adjudge_reranker.retry import NotGiven
from adjudge_reranker.tracing import trace_metadata

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750's b64token."""
_READ_AGAIN_SECONDS: Final = 1.0

Options: TypeAlias = list[tuple[str, int | str]]
Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """Makes a client speak TLS. Files are PEM, and may be replaced while a client lives: calls made
    a second later go over a new connection."""

    ca: Path | str | None = None
    """Certificates of the authorities that a server's may be signed by. None: those that gRPC
    comes with, which are the internet's."""
    cert: Path | str | None = None
    """The client's own certificate, for servers that ask for one (mutual TLS)."""
    key: Path | str | None = None
    """Its private key, not encrypted."""
    server_name: str | None = None
    """The name that the server's certificate must have. None: the host of the address."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a TLS certificate and its key: one is of no use without the other")

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises ValueError, naming the file, for one that cannot be used."""
        self._check()
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))

    def anywhere(self) -> "Tls":
        """The same in whatever directory a process works that a client is pickled to."""
        return Tls(_absolute(self.ca), _absolute(self.cert), _absolute(self.key), self.server_name)

    def _check(self) -> None:
        """gRPC would take anything, and fail to connect."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except OSError as error:  # SSLError is one
            raise ValueError(f"no TLS authorities in {self.ca}: {_reason(error)}") from error
        try:
            if self.cert is not None:
                # The password of an encrypted key would be asked for at the terminal.
                context.load_cert_chain(self.cert, self.key, password=lambda: b"")
        except OSError as error:
            raise ValueError(
                f"not a TLS certificate and its unencrypted key: {self.cert}, {self.key}:"
                f" {_reason(error)}"
            ) from error


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token. Its repr does not show it; its pickle has it. Raises ValueError, which does not
    repeat it either, for what is no token."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.text):
            raise ValueError("the token is empty, or has characters that no token has")

    def read(self) -> str:
        return self.text


@dataclass(slots=True)
class TokenFile:
    """A file that holds a token, which is read again when it is needed, once a second at most: it
    may be replaced while a client lives. Its pickle has the path only. Raises ValueError for a file
    that cannot be read, or holds no token."""

    path: Path
    _last: tuple[float, str] = field(init=False, repr=False, compare=False)
    """When it was read, and what."""

    def __post_init__(self) -> None:
        # No lock, as in `channel`: whoever reads twice at a time reads the same.
        self._last = (time.monotonic(), self._read())

    def read(self) -> str:
        """The newest that was one. Raises nothing."""
        read_at, token = self._last
        now = time.monotonic()
        if now - read_at >= _READ_AGAIN_SECONDS:
            # It may be half written. If it stays so, the server will say what is wrong.
            with contextlib.suppress(ValueError):
                token = self._read()
            self._last = (now, token)
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def _read(self) -> str:
        try:
            text = self.path.read_bytes().decode("ascii", "replace").strip()
            return TokenText(text).read()
        except OSError as error:
            raise ValueError(f"no token in {self.path}: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{self.path}: must hold one token, and nothing else") from error


@dataclass(frozen=True, slots=True)
class Access:
    """A token, TLS, both or neither. Can be pickled."""

    token: TokenText | TokenFile | None = None
    tls: Tls | None = None

    def channel(self, address: str, options: Options, host: str | None = None) -> grpc.Channel:
        """`host` is the name that the server's certificate must have, if the address has another
        and `tls` names none. Raises ValueError for TLS files that cannot be used."""
        if self.tls is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, self.tls.credentials(), options + self._named(host))

    def async_channel(
        self, address: str, options: Options, host: str | None = None
    ) -> grpc.aio.Channel:
        """The same for asyncio."""
        if self.tls is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self.tls.credentials(), options + self._named(host))

    def tls_files(self) -> tuple[bytes | None, ...]:
        """What is in them now; nothing without TLS. Raises OSError."""
        tls = self.tls
        return () if tls is None else (_read(tls.ca), _read(tls.key), _read(tls.cert))

    def metadata(self) -> Metadata:
        """What every call carries: the token, and the span that it is made under."""
        if self.token is None:
            return trace_metadata()
        # Not gRPC's call credentials: those go over TLS only, and loopback needs none.
        return (("authorization", f"Bearer {self.token.read()}"), *trace_metadata())

    def _named(self, host: str | None) -> Options:
        name = (self.tls.server_name if self.tls else None) or host
        return [("grpc.ssl_target_name_override", name)] if name else []


NO_ACCESS: Final = Access()


def resolve_access(
    addresses: Sequence[str],
    token: str | Path | NotGiven | None,
    tls: Tls | NotGiven | None,
    *,
    token_over_plaintext: bool,
    token_variables: Sequence[str] = ("ADJUDGE_TOKEN",),
) -> Access:
    """What a client was given, or else what the environment says.

    Raises ValueError for a bad token, TLS files that cannot be used, and a token that would cross a
    network in plain text without `token_over_plaintext`.
    """
    found_tls = _tls_of_environment() if isinstance(tls, NotGiven) else tls
    if isinstance(token, NotGiven):
        found = _token_of_environment(token_variables)
    elif isinstance(token, Path):
        found = TokenFile(token.absolute())
    else:
        found = None if token is None else TokenText(token)
    if found_tls is not None:
        found_tls = found_tls.anywhere()
        found_tls.credentials()  # what is wrong is said here rather than at the first call
    elif found is not None and not (
        token_over_plaintext or os.environ.get("ADJUDGE_TOKEN_OVER_PLAINTEXT") == "1"
    ):
        for address in addresses:
            if not is_loopback(address):
                raise ValueError(
                    f"the token would go to {address} in plain text, for anybody between to read:"
                    " use TLS, or token_over_plaintext if something else seals the connection"
                )
    return Access(found, found_tls)


def is_loopback(address: str) -> bool:
    """Whether a gRPC target is this machine for certain: one written in an unusual way is not."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host, _, port = re.sub("^(dns:///|ipv4:|ipv6:)", "", address).rpartition(":")
    if not port.isdecimal():
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _tls_of_environment() -> Tls | None:
    ca, cert = _variable("ADJUDGE_TLS_CA"), _variable("ADJUDGE_TLS_CERT")
    key, name = _variable("ADJUDGE_TLS_KEY"), _variable("ADJUDGE_TLS_SERVER_NAME")
    return Tls(ca, cert, key, name) if ca or cert or key or name else None


def _token_of_environment(variables: Sequence[str]) -> TokenText | TokenFile | None:
    for variable in variables:
        text, path = _variable(variable), _variable(f"{variable}_FILE")
        if text and path:
            raise ValueError(f"{variable} and {variable}_FILE are both set: which one is it?")
        if text:
            return TokenText(text)
        if path:
            return TokenFile(Path(path).absolute())
    return None


def _variable(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _absolute(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path).absolute()


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
