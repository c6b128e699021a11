"""TLS: the server's certificate, and whose certificates clients must show."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import grpc.aio

from adjudge_server.access.reloading import Reloaded, read_file, read_secret
from adjudge_server.access.rules import Settings
from adjudge_server.access.tcp_address import check_free
from adjudge_server.access.unix_socket import for_its_owner, is_unix, path_of


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files."""

    cert: Path
    """The server's certificate, followed by those between it and its CA."""
    key: Path
    """Its private key, not encrypted, and not open to every user of the machine."""
    client_ca: Path | None = None
    """Whoever calls must show a certificate signed by one of these."""

    def read(self) -> tuple[bytes, ...]:
        """Raises ValueError, naming flag and path, for what cannot be read."""
        contents = [read_file(self.cert, "--tls-cert"), read_secret(self.key, "--tls-key")]
        if self.client_ca is not None:
            contents.append(read_file(self.client_ca, "--tls-client-ca"))
        return tuple(contents)


@dataclass(frozen=True, slots=True)
class _Certificate:
    files: TlsFiles
    configuration: grpc.ServerCertificateConfiguration

    def __str__(self) -> str:
        return f"--tls-cert {self.files.cert}"


def credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Follows the files: connections made after they changed see the new certificates, those made
    before go on. Raises ValueError where the files do not fit together."""
    current = Reloaded(files.read, lambda contents: _certificate(files, contents))
    given = current.get()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # Called before every handshake. None for no change: a new configuration, though equal,
        # would make gRPC forget the sessions that clients could resume.
        nonlocal given
        newest = current.get()
        if newest is given:
            return None
        given = newest
        return newest.configuration

    return grpc.dynamic_ssl_server_credentials(
        given.configuration,
        cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch),  # its types know no None
        require_client_authentication=files.client_ca is not None,
    )


def bind(server: grpc.aio.Server, settings: Settings) -> int:
    """Binds the address, with TLS if there is a certificate, and returns the port; of a socket in
    the file system, 0.

    Raises ValueError for certificates that make no sense, and for a socket's path that is taken;
    RuntimeError where the address cannot be bound."""
    if is_unix(settings.listen):
        with for_its_owner(path_of(settings.listen)):
            _bind(server, settings)
        return 0
    check_free(settings.listen)
    try:
        return _bind(server, settings)
    except RuntimeError as error:  # somebody else came in between
        raise RuntimeError(f"--listen {settings.listen}: cannot be bound") from error


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    if settings.tls_cert is None or settings.tls_key is None:
        return server.add_insecure_port(settings.listen)
    files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return server.add_secure_port(settings.listen, credentials(files))


def _certificate(files: TlsFiles, contents: tuple[bytes, ...]) -> _Certificate:
    _check(files)
    if files.read() != contents:
        raise ValueError(f"--tls-cert {files.cert}: being written")
    cert, key, *client_ca = contents
    configuration = grpc.ssl_server_certificate_configuration(
        [(key, cert)], root_certificates=client_ca[0] if client_ca else None
    )
    return _Certificate(files, configuration)


def _check(files: TlsFiles) -> None:
    """gRPC would take anything, and refuse every connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The password of an encrypted key would be asked for at the terminal, if there is one.
        context.load_cert_chain(files.cert, files.key, password=lambda: b"")
    except OSError as error:  # SSLError is one
        raise ValueError(
            f"--tls-cert {files.cert}, --tls-key {files.key}: not a certificate and its unencrypted"
            f" private key: {_reason(error)}"
        ) from error
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except OSError as error:
            raise ValueError(
                f"--tls-client-ca {files.client_ca}: holds no certificates: {_reason(error)}"
            ) from error


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
