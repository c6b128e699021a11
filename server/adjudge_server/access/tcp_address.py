"""Whether a TCP address can be listened on, asked before gRPC is: of its errors only its own log
tells more than that binding failed."""

import errno
import socket
from contextlib import suppress
from typing import Any

_SOMEBODY = "another server listens there"


def check_free(listen: str) -> None:
    """Raises RuntimeError, naming flag, address and reason, where `listen`, host:port, cannot be
    bound. Whoever comes in between is left to gRPC."""
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.removeprefix("[").removesuffix("]"),
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RuntimeError(f"--listen {listen}: {reason}") from error
    problems = [problem for family, *_, place in found if (problem := _problem(family, place))]
    # A host may have addresses of families that this machine does not speak; one is enough.
    taken = [problem for problem in problems if problem.errno == errno.EADDRINUSE]
    if taken or len(problems) == len(found):
        (problem, *_) = taken or problems
        told = _SOMEBODY if taken else problem.strerror
        raise RuntimeError(f"--listen {listen}: {told}") from problem


def _problem(family: int, place: tuple[Any, ...]) -> OSError | None:
    """What keeps a socket from that place, bound as gRPC does it."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with suppress(OSError):
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            trial.bind(place)
    except OSError as error:
        return error
    return None
