"""Pictures for vLLM: as PNG, which changes no pixel, under a name by which it may remember them."""

import base64
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from PIL import Image

from adjudge_server.critics import anyres
from adjudge_server.critics.anyres import Geometry, Layout
from adjudge_server.critics.preparing import TiledPicture
from adjudge_server.images import Picture

FASTEST = 1
"""zlib's level: the engine is near, and a picture is sent once."""
REMEMBERED = 10_000
"""Names of pictures that were sent."""


@dataclass(frozen=True, slots=True, eq=False)
class SentPicture(TiledPicture[Layout]):
    """The engine cuts it."""

    url: Callable[[], str]
    """The picture itself, as a data URL; encoded only once."""

    def make_ready(self) -> None:
        self.url()

    def part(self, *, by_name: bool) -> dict[str, Any]:
        """What stands for it in a request."""
        named = {"type": "image_url", "uuid": self.digest}
        return named if by_name else {**named, "url": self.url()}


class Sent:
    """Names of pictures that the engine has seen, and may have forgotten. From any thread."""

    def __init__(self) -> None:
        self._names: LRUCache[str, None] = LRUCache(REMEMBERED)
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self._names[name] = None

    def clear(self) -> None:
        with self._lock:
            self._names.clear()

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._names


class Layouter:
    """A `preparing.Tile` for an engine that cuts pictures itself: into tiles, however many there
    are of them."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry

    def __call__(self, picture: Picture, num_pictures: int) -> SentPicture:
        layout = anyres.layout(picture.size, self._geometry)
        url = cache(partial(data_url, picture.pixels))
        return SentPicture(picture.digest, layout, _nothing, url)


def data_url(pixels: Image.Image) -> str:
    file = io.BytesIO()
    pixels.save(file, "PNG", compress_level=FASTEST)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _nothing() -> NDArray[np.float32]:
    raise AssertionError("the engine cuts its pictures itself")
