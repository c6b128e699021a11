"""Whose turn it is: clients by turns, and each client's requests by turns, by tokens.

Start-time fair queueing on two levels: whoever has been given the fewest tokens comes next, and who
comes anew begins where the others stand, so that nobody saves up turns, a small request does not
wait for a large one to end, and none waits for ever. A client that had nothing more to ask, and
comes back while others wait, begins where it stood. A turn is a quantum of tokens, so that a
request that fits in one is not taken apart. Within a request, in order. Not thread-safe.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
MAX_GONE = 64
"""Clients that are remembered before it is looked who need not be."""


class _Turns(Generic[T]):
    """Things that take turns, by what each was given."""

    def __init__(self, quantum: float) -> None:
        self._quantum = quantum
        self._heap: list[tuple[float, int, T]] = []
        """Those whose turn it is not."""
        self._turn: tuple[float, int, T] | None = None
        self._spent = 0.0
        """In this turn."""
        self._number = 0
        self._now = 0.0
        """What the last one that had its turn had been given before."""

    def __bool__(self) -> bool:
        return bool(self._heap) or self._turn is not None

    def __iter__(self) -> Iterator[T]:
        entries = self._heap if self._turn is None else [self._turn, *self._heap]
        return (thing for _, _, thing in entries)

    def join(self, thing: T, given: float = 0.0) -> None:
        """`given`: what it had been given when it left, if it is not new."""
        self._push(max(self._now, given), thing)

    @property
    def next(self) -> T:
        if self._turn is None:
            self._turn = heapq.heappop(self._heap)
            self._spent, self._now = 0.0, self._turn[0]
        return self._turn[2]

    def charge(self, amount: float, *, may_end: bool = True) -> bool:
        """To whoever is next. Whether that was the end of the turn."""
        thing = self.next
        self._spent += amount
        if self._spent < self._quantum or not may_end:
            return False
        self._turn = None
        self._push(self._now + self._spent, thing)
        return True

    def leave(self, amount: float = 0.0) -> float:
        """Whoever is next has nothing more to do, after that amount. What it has been given."""
        _ = self.next
        self._turn = None
        return self._now + self._spent + amount

    @property
    def now(self) -> float:
        """What those who come anew have been given."""
        return self._now

    def keep(self, wanted: Callable[[T], object]) -> None:
        """Only those."""
        if self._turn is not None and not wanted(self._turn[2]):
            self._turn = None
        self._heap = [entry for entry in self._heap if wanted(entry[2])]
        heapq.heapify(self._heap)

    def _push(self, given: float, thing: T) -> None:
        self._number += 1
        heapq.heappush(self._heap, (given, self._number, thing))


@dataclass(slots=True)
class _Client(Generic[T]):
    name: str
    requests: _Turns[deque[T]]


class FairQueue(Generic[T]):
    """Things that wait, of requests of clients. `quantum` is in tokens."""

    def __init__(self, quantum: float = 0.0) -> None:
        self._quantum = quantum
        self._turns: _Turns[_Client[T]] = _Turns(quantum)
        self._clients: dict[str, _Client[T]] = {}
        self._gone: dict[str, float] = {}
        """What clients had been given when they left, of those who may be back too soon."""

    def __bool__(self) -> bool:
        return bool(self._turns)

    def __iter__(self) -> Iterator[T]:
        """Everything that waits, in no order."""
        return (thing for client in self._turns for request in client.requests for thing in request)

    def add(self, client: str, request: Iterable[T]) -> None:
        """A request, whose things are taken in order."""
        things = deque(request)
        if not things:
            return
        if client not in self._clients:
            self._clients[client] = _Client(client, _Turns(self._quantum))
            self._turns.join(self._clients[client], self._gone.pop(client, 0.0))
        self._clients[client].requests.join(things)

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drops everything else."""
        for client in self._turns:
            for request in client.requests:
                kept = [thing for thing in request if wanted(thing)]
                request.clear()
                request.extend(kept)
            client.requests.keep(len)
        self._turns.keep(lambda client: bool(client.requests))
        self._clients = {client.name: client for client in self._turns}
        self._forget_gone()

    @property
    def next(self) -> T:
        """Whose turn it is; the queue may not be empty."""
        return self._turns.next.requests.next[0]

    def pop(self, cost: float) -> T:
        """Takes that one, and charges its request and its client."""
        client = self._turns.next
        request = client.requests.next
        thing = request.popleft()
        if request:
            is_between = client.requests.charge(cost)
        else:
            client.requests.leave()
            is_between = True
        if client.requests:
            self._turns.charge(cost, may_end=is_between)
        else:
            self._gone[client.name] = self._turns.leave(cost)
            del self._clients[client.name]
            self._forget_gone()
        return thing

    def _forget_gone(self) -> None:
        """Those whom everybody has caught up with; all of them where nobody waits."""
        if not self._clients:
            self._gone.clear()
        elif len(self._gone) > 2 * len(self._clients) + MAX_GONE:
            now = self._turns.now
            self._gone = {name: given for name, given in self._gone.items() if given > now}
