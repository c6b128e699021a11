"""Which settings of access go together. What would let strangers in by accident does not."""

import ipaddress
import re
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from adjudge_server.access.unix_socket import is_unix


class Settings(Protocol):
    """The fields of `Config` that are about access."""

    @property
    def listen(self) -> str: ...
    @property
    def allow_plaintext(self) -> bool: ...
    @property
    def tls_cert(self) -> Path | None: ...
    @property
    def tls_key(self) -> Path | None: ...
    @property
    def tls_client_ca(self) -> Path | None: ...
    @property
    def tokens(self) -> Path | None: ...
    @property
    def admin_tokens(self) -> Path | None: ...
    @property
    def closed_health(self) -> bool: ...
    @property
    def enable_admin(self) -> bool: ...


def check(settings: Settings) -> None:
    """Raises ValueError, naming the flags, for what contradicts itself or lets strangers in."""
    is_local = is_unix(settings.listen) or is_loopback(settings.listen.rpartition(":")[0])
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ValueError("--tls-cert and --tls-key: one is of no use without the other")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
    if settings.closed_health and settings.tokens is None and settings.admin_tokens is None:
        raise ValueError("--closed-health needs --tokens or --admin-tokens, to be opened with")
    if settings.admin_tokens is not None and not settings.enable_admin:
        raise ValueError("--admin-tokens needs --enable-admin")
    if not (is_local or settings.tls_cert is not None or settings.allow_plaintext):
        raise ValueError(
            f"--listen {settings.listen}: others than this machine could call, and anybody between"
            " read along; give --tls-cert and --tls-key, or --allow-plaintext if the network is"
            " safe or something else seals it"
        )
    if settings.enable_admin and settings.admin_tokens is None:
        if not is_local:
            raise ValueError(f"--enable-admin with --listen {settings.listen} needs --admin-tokens")
        if settings.tokens is not None:
            raise ValueError("--enable-admin with --tokens needs --admin-tokens too")


def check_engine_url(url: str | None, allow_plaintext: bool) -> None:
    """Raises ValueError, without the password, for what is no URL of a server, holds a user's name
    or password, or sends prompts and key in the clear where others could read along."""
    told = f"--engine-url {url and re.sub('//[^/?#]*@', '//', url)}"
    try:
        parts = urlsplit(url or "")
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{told}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{told}: must be http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ValueError(f"{told}: no user or password belongs there; a key goes to --engine-key")
    if parts.scheme == "http" and not (is_loopback(host) or allow_plaintext):
        raise ValueError(
            f"{told}: prompts and the key would cross the network in the clear; use https://, or"
            " --allow-plaintext if the network is safe or something else seals it"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`: "localhost", 127.0.0.0/8 or [::1]. What is written
    in any other way counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
