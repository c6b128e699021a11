"""How much of a queue is taken and by whom; a greedy caller leaves room for others."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from adjudge_server.accepted import Caller, Waiting
from adjudge_server.errors import QueueFull


class QueueRoom:
    """The tokens that wait. Not thread-safe.

    A request that comes to an empty queue always has room, or it never would. Of a queue that is
    not empty a caller may hold as much as stays free (as in `open_bytes`).
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self.tokens = 0
        """Of all callers."""
        self.held: Counter[str] = Counter()
        """Of those, by caller; none that holds nothing."""
        self._refused: dict[str, int] = {}
        """Bytes of the smallest request of each caller that was refused since something left."""

    def is_full(self, caller: Caller, tokens: int) -> bool:
        """For so many more."""
        if tokens == 0 or self.tokens == 0:
            return False
        free = self._max_tokens - self.tokens - tokens
        return free < 0 or self.held[caller.name] > free

    def take(self, caller: Caller, tokens: int) -> None:
        self.tokens += tokens
        self.held[caller.name] += tokens

    def release(self, waiting: Waiting[Any]) -> None:
        """Its tokens wait no longer."""
        self._refused.clear()
        self.tokens -= waiting.tokens
        self.held[waiting.caller.name] -= waiting.tokens
        if not self.held[waiting.caller.name]:
            del self.held[waiting.caller.name]  # names are of connections, which come and go

    def count(self, left: Iterable[Waiting[Any]]) -> None:
        """Anew, where some were dropped and these are left."""
        before, self.held = self.held, Counter()
        for waiting in left:
            self.held[waiting.caller.name] += waiting.tokens
        self.tokens = self.held.total()
        if self.held != before:
            self._refused.clear()

    def refuse(self, caller: Caller) -> QueueFull:
        """What to raise; `check` remembers it."""
        if caller.size:
            smallest = self._refused.get(caller.name, caller.size)
            self._refused[caller.name] = min(smallest, caller.size)
        return self._full(caller)

    def check(self, caller: Caller) -> None:
        """Raises QueueFull for a caller that was refused a request of no more bytes, if nothing has
        left the queue since. Bytes are not tokens: one of more bytes and fewer tokens might have
        had room."""
        if caller.size >= self._refused.get(caller.name, math.inf):
            raise self._full(caller)

    def _full(self, caller: Caller) -> QueueFull:
        return QueueFull(
            f"{self.tokens} tokens wait already, {self.held[caller.name]} of them this caller's;"
            f" {self._max_tokens} may",
            limit="max_queue_tokens",
            maximum=self._max_tokens,
        )
