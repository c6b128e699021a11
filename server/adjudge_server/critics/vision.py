"""What towers make of pictures, remembered by digest."""

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Generic

import torch
from cachetools import LRUCache

from adjudge_server.caches import CacheUse
from adjudge_server.critics.preparing import L, TiledPicture


class Vision(ABC, Generic[L]):
    """A model's tower, and what else stands between pictures and the decoder."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` bounds the features that are remembered."""
        self._known: LRUCache[str, torch.Tensor] = LRUCache(max_bytes, lambda known: known.nbytes)
        self._num_hits = self._num_misses = 0

    def knows(self, digest: str) -> bool:
        """Whether `features` would not look at this picture's tiles. For any thread."""
        return digest in self._known

    def features(self, picture: TiledPicture[L]) -> torch.Tensor:
        """(tokens, hidden); `picture.layout` says how many. By itself, so that they do not depend
        on other pictures."""
        known = self._known.get(picture.digest)
        if known is not None:
            self._num_hits += 1
        else:
            self._num_misses += 1
            known = self._computed(picture)
            with suppress(ValueError):  # larger than all that may be remembered
                self._known[picture.digest] = known
        return known

    def forget(self) -> None:
        self._known.clear()

    @property
    def use(self) -> CacheUse:
        """For any thread."""
        return CacheUse(self._num_hits, self._num_misses, int(self._known.currsize))

    @abstractmethod
    def _computed(self, picture: TiledPicture[L]) -> torch.Tensor:
        """See `features`."""
