"""Where a client is told that servers listen, as gRPC reads it.

gRPC itself refuses hardly anything: it takes a port over 65535 modulo 65536, a missing one for 443,
and other mistakes for names that no name server knows yet, which are worth trying again.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

NAME_SCHEME: Final = "dns:///"
"""Begins a name that stands for every server that it has an address of; see `names`."""

_OPAQUE: Final = ("unix:", "unix-abstract:", "xds://")
"""What follows is no host and port."""
_UNREADABLE: Final = re.compile(r"unix:(//[^/].*)?|unix-abstract:")
"""Of those, what gRPC takes for no socket."""
_PREFIX: Final = re.compile(r"dns://[^/]*/|dns:(?!//)|ipv4:|ipv6:")
_SCHEMES: Final = frozenset(
    {"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds", "google-c2p"}
)
"""Those of gRPC, in some of its builds."""
_URL: Final = re.compile(r"([A-Za-z0-9+.-]*)://")
_OURS: Final = frozenset({"dns", "unix", "xds"})
"""Schemes that gRPC knows, of those that are written like URLs."""
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
"""Resolvers disagree about which of these are IPv4 addresses, such as 127.1."""
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


def checked_addresses(address: str | Iterable[str]) -> tuple[str, ...]:
    """The addresses that a client is given. Raises TypeError or ValueError for none, for one that
    is no text or that gRPC would not read as what is written there, and for one given twice, which
    would count as two endpoints."""
    addresses = (address,) if isinstance(address, str) else tuple(address)
    for one in addresses:
        if not isinstance(one, str):
            raise TypeError(f"an address must be a string, not {type(one).__name__}")
    if not addresses or "" in addresses:
        raise ValueError("an address is missing")
    for one in addresses:
        _check(one)
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"an address is given twice: {', '.join(addresses)}")
    return addresses


def host_and_port(address: str) -> tuple[str, int]:
    """Those of an address that has them, with or without a scheme; the host of an IPv6 address is
    without its brackets. Raises ValueError, which says what is wrong with them."""
    match = _PREFIX.match(address)
    prefix = match.group() if match else ""
    host, separator, port = address[len(prefix) :].rpartition(":")
    if "," in address:
        raise _refusal(address, "is several addresses: give each by itself, in a list")
    problem = None
    if not separator or address.endswith("]"):
        host, problem = "", "has no port"
    elif not _PORT.fullmatch(port) or int(port) > 65535:
        problem = f"{port!r} is no port from 1 to 65535" if port else "has no port after the colon"
    # The host first, for an IPv6 address without brackets ends in no port.
    problem = (_problem_of_host(host, prefix) if host else None) or problem
    if problem or not host:
        raise _refusal(address, f"must be {prefix}host:port: {problem or 'has no host'}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check(address: str) -> None:
    if (url := _URL.match(address)) and url[1] not in _OURS:
        raise _refusal(address, f"must be host:port, without {url[1]}://")
    if url and url[1] == "dns" and not _PREFIX.match(address):
        raise _refusal(address, f"must be {NAME_SCHEME}host:port, with three slashes")
    if _UNREADABLE.fullmatch(address):
        raise _refusal(address, "must be unix:/path or unix-abstract:name")
    if not address.startswith(_OPAQUE):
        host_and_port(address)


def _problem_of_host(host: str, prefix: str) -> str | None:
    if host.startswith("["):
        return _problem_of_ipv6(host, prefix)
    if ":" in host:
        return "an IPv6 address stands in brackets, as in [::1]:50051"
    if not _HOST_NAME.fullmatch(host) or len(host) > 253:
        return f"{host!r} is no host"
    if prefix == "ipv6:" or (
        (prefix == "ipv4:" or _NUMERIC.fullmatch(host)) and not _is_ipv4(host)
    ):
        return f"{host} is no IP address" + (f" for {prefix}" if prefix else ", nor a host's name")
    if not prefix and host.lower() in _SCHEMES:
        return f"gRPC takes {host}: for a scheme; a host of that name goes after dns:"
    return None


def _problem_of_ipv6(host: str, prefix: str) -> str | None:
    # After a scheme gRPC takes the % of a zone for an escape.
    zone_is_read = prefix in ("", NAME_SCHEME) or "%" not in host
    if prefix != "ipv4:" and zone_is_read and host.endswith("]") and _is_ipv6(host[1:-1]):
        return None
    return f"{host.rstrip(':')} is no IPv6 address in brackets"


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _refusal(address: str, problem: str) -> ValueError:
    # Quoted where it would not be seen what is there.
    shown = address if address.isprintable() and address == address.strip() else repr(address)
    return ValueError(f"{shown}: {problem}")
