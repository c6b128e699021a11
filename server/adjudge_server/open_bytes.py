"""Bounds what requests hold in memory before they reach the queue, and while they are in it.

A request holds its own bytes and the pixels that its pictures decode to, which can be thousands of
times more. The queue counts neither: it counts tokens, once a request is prepared.
"""

import threading
from collections import Counter

from adjudge_server.errors import LimitExceeded, QueueFull


class OpenBytes:
    """The bytes of all requests at work. Safe to share between threads.

    A caller may hold as much as is free: one alone gets half of it all, n greedy ones get 1/(n + 1)
    each, and whoever comes anew finds the rest. (Dynamic thresholds with alpha = 1, Choudhury and
    Hahne, IEEE/ACM Transactions on Networking 6(2), 1998.) A request that is alone may have it all,
    or one larger than its share could never be answered.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes held now."""
        return self._total

    def open(self, caller: str, num_bytes: int) -> "Share":
        """What one request holds. Raises as `Share.add`."""
        share = Share(self, caller)
        share.add(num_bytes)
        return share

    def take(self, share: "Share", num_bytes: int) -> None:
        with self._lock:
            if share.is_over:  # or a thread that still works for it would take for ever
                raise QueueFull("the request is over")
            others = self._total - share.num_bytes
            held = self._held[share.caller]
            if share.num_bytes + num_bytes > self._max_bytes:
                raise LimitExceeded(
                    f"one request may hold {self._max_bytes} bytes, its pictures decoded and its"
                    " prompt repeated for each candidate or pair",
                    limit="max_open_bytes",
                    maximum=self._max_bytes,
                    actual=share.num_bytes + num_bytes,
                )
            if others and held + num_bytes > self._max_bytes - self._total:
                raise QueueFull(
                    f"requests at work hold {self._total} bytes, {self._max_bytes} may",
                    limit="max_open_bytes",
                    maximum=self._max_bytes,
                )
            share.num_bytes += num_bytes
            self._held[share.caller] = held + num_bytes
            self._total += num_bytes

    def give_back(self, share: "Share") -> None:
        with self._lock:
            self._total -= share.num_bytes
            self._held[share.caller] -= share.num_bytes
            if not self._held[share.caller]:
                del self._held[share.caller]
            share.num_bytes, share.is_over = 0, True


class Share:
    """Of one request; a context that gives back what it took."""

    def __init__(self, whole: OpenBytes, caller: str) -> None:
        self.caller = caller
        self.num_bytes = 0
        self.is_over = False
        self._whole = whole

    def add(self, num_bytes: int) -> None:
        """Before memory is used. Raises QueueFull, or LimitExceeded where waiting would not help;
        then nothing was added."""
        self._whole.take(self, num_bytes)

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *_: object) -> None:
        self._whole.give_back(self)
