"""Pictures retained as they were sent, so that a caller can name one by its wire digest."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from adjudge_server.content import EncodedImage, ImageReference, RawImage, WireImage
from adjudge_server.errors import InvalidRequest, UnknownImage

MAX_CALLERS = 64
"""Bounds the whole store at this many times one caller's bytes; the least recent caller goes."""


@dataclass(slots=True)
class _Retained:
    image: EncodedImage | RawImage
    used_at: float


class ImageStore:
    """Bounded per caller by bytes, and by time since the last use. Safe to call from any thread.

    A caller cannot name what another one sent: a digest is not a permission.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._callers: OrderedDict[str, OrderedDict[bytes, _Retained]] = OrderedDict()

    def resolve(self, caller: str, image: WireImage) -> EncodedImage | RawImage:
        """The picture itself; retains one that was sent, looks up one that was named.

        Raises UnknownImage where the digest is not retained, InvalidRequest where it is not one.
        """
        if isinstance(image, ImageReference):
            return self._find(caller, image.digest)
        if len(image.data) <= self._max_bytes:
            self._retain(caller, image.wire_digest(), image)
        return image

    def _find(self, caller: str, digest: bytes) -> EncodedImage | RawImage:
        if len(digest) != 32:
            raise InvalidRequest(f"a wire digest is 32 bytes, not {len(digest)}")
        with self._lock:
            self._expire()
            entries = self._callers.get(caller, OrderedDict())
            entry = entries.get(digest)
            if entry is None:
                raise UnknownImage(
                    "no picture with this wire digest is retained; send it", digest=digest.hex()
                )
            self._use(caller, digest, entry)
            return entry.image

    def _retain(self, caller: str, digest: bytes, image: EncodedImage | RawImage) -> None:
        with self._lock:
            self._expire()
            entries = self._callers.setdefault(caller, OrderedDict())
            entries[digest] = entry = _Retained(image, 0.0)
            self._use(caller, digest, entry)
            size = sum(len(entry.image.data) for entry in entries.values())
            while size > self._max_bytes:
                _, dropped = entries.popitem(last=False)
                size -= len(dropped.image.data)
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)

    def _use(self, caller: str, digest: bytes, entry: _Retained) -> None:
        """Makes picture and caller the most recently used."""
        entry.used_at = self._clock()
        self._callers[caller].move_to_end(digest)
        self._callers.move_to_end(caller)

    def _expire(self) -> None:
        """Drops everybody's pictures that were not used for too long. Call with the lock held."""
        oldest = self._clock() - self._max_seconds
        for caller, entries in list(self._callers.items()):
            while entries and next(iter(entries.values())).used_at < oldest:
                entries.popitem(last=False)
            if not entries:
                del self._callers[caller]
