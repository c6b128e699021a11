"""From a picture to tiles, for LLaVA-OneVision."""

from collections.abc import Callable
from functools import cache, partial

from adjudge_server.critics import anyres
from adjudge_server.critics.anyres import Geometry, Layout
from adjudge_server.critics.preparing import TiledPicture
from adjudge_server.images import Picture
from adjudge_server.preprocessing import SeveralPictures


class Tiler:
    """Cuts the pictures of a prompt as a checkpoint wants them."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        single: SeveralPictures,
        several: SeveralPictures,
        is_known: Callable[[str], bool],
    ) -> None:
        """`single` and `several`: what is done with the picture of a prompt that has one, and with
        each of those of a prompt that has more. `is_known` says, by digest, that nobody will look
        at the tiles."""
        self._geometry = geometry
        self._single = single
        self._several = several
        self._is_known = is_known

    def __call__(self, picture: Picture, num_pictures: int) -> TiledPicture[Layout]:
        how = self._single if num_pictures == 1 else self._several
        cut = anyres_tiles if how == "anyres" else pad_tiles
        tiled = cut(picture, self._geometry)
        if not self._is_known(tiled.digest):
            tiled.cut()  # here, off the model's thread
        return tiled


def anyres_tiles(picture: Picture, geometry: Geometry) -> TiledPicture[Layout]:
    return TiledPicture(
        digest=f"{picture.digest} anyres",
        cut=cache(partial(anyres.tiles, picture.pixels, geometry)),
        layout=anyres.layout(picture.size, geometry),
    )


def pad_tiles(picture: Picture, geometry: Geometry) -> TiledPicture[Layout]:
    return TiledPicture(
        digest=f"{picture.digest} pad",
        cut=cache(partial(anyres.padded_tile, picture.pixels, geometry.tile)),
        layout=anyres.padded_layout(geometry),
    )
