"""Pictures retained as they were sent, so that a caller can name one by its wire digest."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from adjudge_server.caches import CacheUse
from adjudge_server.content import EncodedImage, ImageReference, RawImage, WireImage
from adjudge_server.errors import InvalidRequest, UnknownImage

MAX_CALLERS = 64
"""That are remembered at all; the least recent goes."""
MAX_PICTURES = 65_536
"""Of one caller: the smallest take more room in the books than by their bytes."""


@dataclass(slots=True)
class _Retained:
    image: EncodedImage | RawImage
    used_at: float


class _Caller:
    """The least recently used picture first."""

    def __init__(self) -> None:
        self.entries: OrderedDict[bytes, _Retained] = OrderedDict()
        self.num_bytes = 0

    def put(self, digest: bytes, entry: _Retained) -> None:
        self.drop(digest)
        self.entries[digest] = entry
        self.num_bytes += len(entry.image.data)

    def drop(self, digest: bytes) -> None:
        """Does nothing where there is none."""
        entry = self.entries.pop(digest, None)
        if entry is not None:
            self.num_bytes -= len(entry.image.data)

    def drop_oldest(self) -> None:
        self.drop(next(iter(self.entries)))


class ImageStore:
    """Bounded by bytes, per caller and for all together, and by time since the last use. Safe to
    call from any thread.

    Where all together are too many, whoever has most makes room, so that a greedy caller costs
    nobody else a picture. A caller cannot name what another one sent: a digest is not a permission.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_total_bytes: int,
        max_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = min(max_bytes, max_total_bytes)
        self._max_total_bytes = max_total_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._num_hits = self._num_misses = 0

    @property
    def use(self) -> CacheUse:
        """Of pictures that were named."""
        with self._lock:
            return CacheUse(self._num_hits, self._num_misses, self._total())

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
            known = self._callers.get(caller)
            entry = known.entries.get(digest) if known else None
            self._num_hits += entry is not None
            self._num_misses += entry is None
            if entry is None:
                raise UnknownImage(
                    "no picture with this wire digest is retained; send it", digest=digest.hex()
                )
            self._use(caller, digest, entry)
            return entry.image

    def _retain(self, caller: str, digest: bytes, image: EncodedImage | RawImage) -> None:
        with self._lock:
            self._expire()
            entries = self._callers.setdefault(caller, _Caller())
            entries.put(digest, entry := _Retained(image, 0.0))
            self._use(caller, digest, entry)
            while entries.num_bytes > self._max_bytes or len(entries.entries) > MAX_PICTURES:
                entries.drop_oldest()
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
            while self._total() > self._max_total_bytes:
                max(self._callers.values(), key=lambda caller: caller.num_bytes).drop_oldest()

    def _total(self) -> int:
        return sum(caller.num_bytes for caller in self._callers.values())

    def _use(self, caller: str, digest: bytes, entry: _Retained) -> None:
        """Makes picture and caller the most recently used."""
        entry.used_at = self._clock()
        self._callers[caller].entries.move_to_end(digest)
        self._callers.move_to_end(caller)

    def _expire(self) -> None:
        """Drops everybody's pictures that were not used for too long. Call with the lock held."""
        oldest = self._clock() - self._max_seconds
        for name, caller in list(self._callers.items()):
            while caller.entries and next(iter(caller.entries.values())).used_at < oldest:
                caller.drop_oldest()
            if not caller.entries:
                del self._callers[name]
