"""Which of several servers takes the next call. Knows no channel: endpoints are addresses here.

Calls about the same pictures go to the same endpoint, whose caches have them, by rendezvous hashing
(Thaler and Ravishankar 1998), unless that endpoint has more than its share of the calls in flight:
then to the next one in the hash's order ("Consistent hashing with bounded loads", Mirrokni, Thorup
and Zadimoghaddam 2016). An endpoint that failed is left to rest for a while.
"""

import hashlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import grpc

from adjudge_reranker.content import Message
from adjudge_reranker.errors import RewardError
from adjudge_reranker.retry import RetryPolicy

_SLACK: Final = 1.25
"""Calls in flight that one endpoint may have, as a multiple of the mean over those awake. With 1,
calls would hardly stay where the caches are; with 2 one endpoint could have twice its share."""


@dataclass(slots=True)
class _Endpoint:
    in_flight: int = 0
    num_failures: int = 0
    """Since its last answer."""
    rests_until: float = -math.inf


class Endpoints:
    """Counts calls and failures of each endpoint. Safe to share between threads."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self._endpoints: dict[str, _Endpoint] = {}
        self._lock = threading.Lock()

    @contextmanager
    def chosen(self, key: bytes, addresses: Sequence[str]) -> Iterator[str]:
        """The one of `addresses` (at least one) for a call about `key`, which is in flight inside
        the block. They may be others each time: what is known of those that stay is kept.

        A RewardError that leaves the block and says UNAVAILABLE puts the endpoint to rest.
        """
        address, endpoint = self._take(key, addresses)
        try:
            yield address
        except RewardError as error:
            self._release(endpoint, failure=error)
            raise
        except BaseException:
            self._release(endpoint, answered=False)  # interrupted: says nothing about the endpoint
            raise
        self._release(endpoint)

    def elsewhere(self, addresses: Sequence[str]) -> bool:
        """Whether a call that just failed can go to another endpoint, so that it need not wait."""
        if len(addresses) < 2:
            return False
        with self._lock:
            now = self._clock()
            known = (self._endpoints.get(address) for address in addresses)
            return any(endpoint is None or endpoint.rests_until <= now for endpoint in known)

    def _take(self, key: bytes, addresses: Sequence[str]) -> tuple[str, _Endpoint]:
        order = sorted(addresses, key=lambda address: _weight(key, address))
        with self._lock:
            self._know(addresses)
            now = self._clock()
            awake = [a for a in order if self._endpoints[a].rests_until <= now]
            if awake:
                in_flight = sum(self._endpoints[a].in_flight for a in awake)
                most = math.ceil(_SLACK * (in_flight + 1) / len(awake))
                address = next(a for a in awake if self._endpoints[a].in_flight < most)
            else:
                address = min(order, key=lambda a: self._endpoints[a].rests_until)
            endpoint = self._endpoints[address]
            endpoint.in_flight += 1
            return address, endpoint

    def _know(self, addresses: Sequence[str]) -> None:
        if self._endpoints.keys() != set(addresses):
            self._endpoints = {a: self._endpoints.get(a) or _Endpoint() for a in addresses}

    def _release(
        self, endpoint: _Endpoint, *, failure: RewardError | None = None, answered: bool = True
    ) -> None:
        with self._lock:
            endpoint.in_flight -= 1
            if failure is not None and failure.code is grpc.StatusCode.UNAVAILABLE:
                now = self._clock()
                # Calls that were in flight together fail together: that is one failure.
                if endpoint.rests_until <= now:
                    endpoint.num_failures += 1
                bound = self._policy.backoff_bound(max(endpoint.num_failures, 1))
                rest = (failure.retry_after_seconds or 0.0) + self._uniform(bound / 2, bound)
                endpoint.rests_until = max(endpoint.rests_until, now + rest)
            elif answered and (failure is None or failure.reason is not None):
                endpoint.num_failures = 0
                endpoint.rests_until = -math.inf


def _weight(key: bytes, address: str) -> bytes:
    return hashlib.blake2b(key + address.encode(), digest_size=8).digest()


def affinity_key(prompt: Iterable[Message]) -> bytes:
    """32 bytes, equal for prompts with the same pictures; without any, for the same texts."""
    parts = [part for message in prompt for part in message.parts]
    digests = [part.wire_digest for part in parts if not isinstance(part, str)]
    key = hashlib.sha256()
    for piece in digests or [part.encode() for part in parts if isinstance(part, str)]:
        key.update(len(piece).to_bytes(8, "big"))
        key.update(piece)
    return key.digest()
