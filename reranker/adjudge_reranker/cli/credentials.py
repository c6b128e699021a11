"""The options that come before the command: what opens the server, and how to be sure of it."""

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from adjudge_reranker.access import Tls
from adjudge_reranker.retry import NOT_GIVEN, NotGiven


class Arguments(TypedDict):
    """What every client takes."""

    token: Path | NotGiven
    tls: Tls | NotGiven
    token_over_plaintext: bool


@dataclass(frozen=True, slots=True)
class Credentials:
    """As given on the command line; what was left out is up to the client."""

    token: Path | NotGiven = NOT_GIVEN
    tls: Tls | NotGiven = NOT_GIVEN
    token_over_plaintext: bool = False

    def arguments(self) -> Arguments:
        return Arguments(
            token=self.token, tls=self.tls, token_over_plaintext=self.token_over_plaintext
        )


_GIVEN: ContextVar[Credentials] = ContextVar("credentials")


def given() -> Credentials:
    """Those of the command that runs."""
    return _GIVEN.get(Credentials())


# A token itself is no option: every user of the machine sees what programs were started with.
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        exists=True,
        dir_okay=False,
        help="File with the token that opens the server. A token itself is taken from ADJUDGE_TOKEN"
        " (ADJUDGE_ADMIN_TOKEN for load-weights).",
    ),
]
TokenOverPlaintext = Annotated[
    bool,
    typer.Option(
        "--token-over-plaintext",
        envvar="ADJUDGE_TOKEN_OVER_PLAINTEXT",
        help="Send it to another machine without TLS too.",
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="ADJUDGE_TLS_CA",
        help="PEM file with the authorities to trust. This, or any other of --tls, means TLS.",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", envvar="ADJUDGE_TLS_CERT", help="Your certificate, if asked for."),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", envvar="ADJUDGE_TLS_KEY", help="Its private key.")
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        "--tls-server-name",
        envvar="ADJUDGE_TLS_SERVER_NAME",
        help="Name in the server's certificate. Default: the host that is called.",
    ),
]


def take(
    token_file: TokenFile = None,
    token_over_plaintext: TokenOverPlaintext = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
) -> None:
    tls: Tls | NotGiven = NOT_GIVEN
    if tls_ca or tls_cert or tls_key or tls_server_name:
        try:
            tls = Tls(tls_ca, tls_cert, tls_key, tls_server_name)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    _GIVEN.set(Credentials(token_file or NOT_GIVEN, tls, token_over_plaintext))
