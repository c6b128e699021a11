"""From a picture to tiles, for LLaVA-OneVision."""

from functools import cache, partial

from adjudge_server.critics import anyres
from adjudge_server.critics.anyres import Geometry, Layout
from adjudge_server.critics.preparing import TiledPicture
from adjudge_server.images import Picture
from adjudge_server.preprocessing import SeveralPictures


class Tiler:
    """A `preparing.Tile`: cuts the pictures of a prompt as a checkpoint wants them."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        single: SeveralPictures,
        several: SeveralPictures,
    ) -> None:
        """`single` and `several`: what is done with the picture of a prompt that has one, and with
        each of those of a prompt that has more."""
        self._geometry = geometry
        self._single = single
        self._several = several

    def __call__(self, picture: Picture, num_pictures: int) -> TiledPicture[Layout]:
        how = self._single if num_pictures == 1 else self._several
        tile = anyres_tiles if how == "anyres" else pad_tiles
        return tile(picture, self._geometry)


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
