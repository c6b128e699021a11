"""Which servers a client's addresses stand for. Knows no channel.

An address is one server, and gRPC's affair, but for `dns:///host:port`: that is every server that
the name has an address of, as a headless Service of Kubernetes has one of each ready pod. gRPC
itself would send all calls to the first of them, or spread those about one picture over all.
"""

import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from adjudge_reranker.addresses import NAME_SCHEME, host_and_port

REFRESH_SECONDS: Final = 30.0
"""After which a name is looked up again, if it is used."""
DOUBT_SECONDS: Final = 1.0
"""The same after one of its servers failed."""


@dataclass(frozen=True, slots=True)
class Target:
    """One server."""

    address: str
    """As gRPC takes it."""
    host: str | None = None
    """The name that its certificate has, where the address does not say it."""


@dataclass(frozen=True, slots=True)
class _Name:
    host: str
    port: int


class Names:
    """The servers of some addresses. Safe to share between threads of one process.

    Look-ups run in threads of their own, one at a time, and nobody waits for them but who has no
    server yet: a name server that is slow or gone costs no call anything. What was found last
    counts until something else is found: a Service none of whose pods is ready has no addresses
    at all, and there is nothing better to try than the last ones.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        look_up: Callable[..., Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look_up` is by default `socket.getaddrinfo`. Raises ValueError for a name without a
        port."""
        self._look_up = look_up or socket.getaddrinfo
        self._clock = clock
        self._names = [_Name(*host_and_port(a)) for a in addresses if a.startswith(NAME_SCHEME)]
        self._fixed = [Target(a) for a in addresses if not a.startswith(NAME_SCHEME)]
        self._found: dict[_Name, list[Target]] = {}
        self._targets = tuple(self._fixed)
        self._lock = threading.Lock()
        self._looking: Future[None] | None = None
        self._is_first = True
        self._looked_at = -math.inf
        self._due = -math.inf if self._names else math.inf
        self._problems: dict[_Name, str] = {}

    @property
    def targets(self) -> tuple[Target, ...]:
        """Those known now, in the addresses' order and then by address; the same object until they
        change."""
        return self._targets

    @property
    def problem(self) -> str:
        """Why there are no targets."""
        problems = "; ".join(list(self._problems.values()))
        return problems or "the server's name is still being looked up"

    def refresh(self) -> Future[None] | None:
        """Starts a look-up if it is time. What the caller should wait for, if its end is needed
        to know what to do; None otherwise."""
        with self._lock:
            if self._looking is None and self._clock() >= self._due:
                looking: Future[None] = Future()
                looking.set_running_or_notify_cancel()  # one who waits cannot cancel it
                threading.Thread(
                    target=self._look, args=(looking,), name="adjudge-names", daemon=True
                ).start()  # waits for the lock before it says that it is done
                self._looking = looking
            return self._looking if self._is_first or not self._targets else None

    def doubt(self) -> None:
        """One of the servers failed: perhaps it has moved."""
        with self._lock:
            if self._names:
                self._due = min(self._due, self._looked_at + DOUBT_SECONDS)

    def _look(self, done: Future[None]) -> None:
        try:
            for name in self._names:
                try:
                    self._found[name] = _targets(name, self._look_up)
                    self._problems.pop(name, None)
                except (OSError, UnicodeError) as error:  # the latter: what is no host name at all
                    reason = getattr(error, "strerror", None) or str(error)
                    self._problems[name] = f"{name.host} has no address: {reason}"
        finally:
            found = [target for name in self._names for target in self._found.get(name, ())]
            with self._lock:
                targets = tuple(dict.fromkeys([*self._fixed, *found]))
                if targets != self._targets:
                    self._targets = targets
                self._looking, self._is_first = None, False
                self._looked_at = self._clock()
                # Whoever has no server at all tries again as soon as its patience says.
                self._due = self._looked_at + (REFRESH_SECONDS if targets else 0.0)
            done.set_result(None)


def _targets(name: _Name, look_up: Callable[..., Any]) -> list[Target]:
    infos = look_up(name.host, name.port, type=socket.SOCK_STREAM)
    # Of one family, the preferred one: a server with two addresses would count as two servers.
    family = infos[0][0] if infos else None
    hosts = sorted({info[4][0] for info in infos if info[0] == family})
    brackets = "[{}]:{}" if family == socket.AF_INET6 else "{}:{}"
    return [Target(brackets.format(host, name.port), name.host) for host in hosts]
