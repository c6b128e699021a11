"""How large a server is, and what it holds open: from outside, and from its metrics."""

import asyncio
import os
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.server.watched import MIB, Watched

IDLE_SECONDS = 60.0
"""After which whatever is still open has leaked. gRPC's threads end some time after their work."""


DYING_SECONDS = 1.0
"""In which a process that no longer listens ends."""


class Died(Exception):
    """There is no server to look at any more."""


@dataclass(frozen=True, slots=True)
class State:
    """Of one moment."""

    seconds: float
    """Since the watch began."""
    resident_bytes: int
    threads: int
    files: int
    tasks: int
    open_requests: int
    open_bytes: int
    open_critiques: int
    queue_tokens: int
    cache_bytes: int
    """Of all caches."""
    open_files: tuple[str, ...]
    """What they are, sockets with their states."""

    @property
    def is_at_work(self) -> bool:
        at_work = self.open_requests, self.open_bytes, self.open_critiques, self.queue_tokens
        return any(at_work)

    @property
    def held(self) -> tuple[int, int, int]:
        """What an idle server may not have more of than before."""
        return self.threads, self.files, self.tasks

    def __str__(self) -> str:
        return (
            f"{self.resident_bytes / MIB:.0f} MiB, {self.threads} threads, {self.files} files,"
            f" {self.tasks} tasks, {self.open_requests} requests, {self.queue_tokens} tokens wait,"
            f" caches {self.cache_bytes / MIB:.1f} MiB"
        )


@dataclass
class Watch:
    server: Watched
    metrics: str
    """Its URL."""
    states: list[State] = field(default_factory=list)
    last: State | None = None
    """Of all that were seen."""
    began: float = field(default_factory=time.monotonic)

    async def look(self) -> State:
        """Without keeping it. Raises Died, or OSError where a living server says nothing."""
        try:
            self.last = await self._look()
        except OSError as error:
            await asyncio.sleep(DYING_SECONDS)
            if self.server.is_alive():
                raise
            raise Died(str(error)) from error
        return self.last

    async def _look(self) -> State:
        if not self.server.is_alive():
            raise Died("before it was looked at")
        # Before the scrape, which has a thread and a file of its own in the server.
        memory, threads = self.server.resident_bytes(), self.server.threads()
        files = _open_files(self.server.pid)
        metrics = await asyncio.to_thread(_scrape, self.metrics)
        return State(
            seconds=time.monotonic() - self.began,
            resident_bytes=memory,
            threads=threads,
            files=len(files),
            open_files=files,
            tasks=int(metrics["adjudge_tasks"]),
            open_requests=int(metrics["adjudge_open_requests"]),
            open_bytes=int(metrics["adjudge_open_bytes"]),
            open_critiques=int(metrics["adjudge_open_critiques"]),
            queue_tokens=int(metrics["adjudge_queue_tokens"]),
            cache_bytes=int(metrics["adjudge_cache_bytes"]),
        )

    async def keep_looking(self, seconds: float = 2.0) -> None:
        while True:
            self.states.append(await self.look())
            await asyncio.sleep(seconds)

    async def idle(self, is_reached: Callable[[State], bool]) -> State:
        """The first state that is, or the one after IDLE_SECONDS, or the last of a server that
        died."""
        give_up = time.monotonic() + IDLE_SECONDS
        try:
            while not is_reached(state := await self.look()) and time.monotonic() < give_up:
                await asyncio.sleep(0.5)
        except Died:
            if self.last is None:
                raise
            return self.last
        return state

    async def settled(self) -> State:
        """Once nothing is at work and nothing has changed for a while."""
        last: list[tuple[int, int, int]] = []

        def is_settled(state: State) -> bool:
            last.append(state.held)
            return not state.is_at_work and len(last) > 20 and len(set(last[-20:])) == 1

        return await self.idle(is_settled)


_TCP_STATES = {"01": "ESTABLISHED", "06": "TIME_WAIT", "08": "CLOSE_WAIT", "0A": "LISTEN"}
"""Some of those of /proc/net/tcp, see proc(5)."""


def _open_files(pid: int) -> tuple[str, ...]:
    sockets: dict[str, str] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            sockets[fields[9]] = f"{table} {_TCP_STATES.get(fields[3], fields[3])}"
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(path)
            inode = target.removeprefix("socket:[").removesuffix("]")
            found.append(sockets.get(inode, target.partition(":[")[0]))
    return tuple(sorted(found))


def _scrape(url: str) -> dict[str, float]:
    """Each sample by its name, all labels together."""
    with urllib.request.urlopen(url, timeout=60) as response:
        text = response.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
