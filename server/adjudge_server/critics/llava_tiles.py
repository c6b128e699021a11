"""From a picture to tiles, for LLaVA-OneVision."""

from adjudge_server.critics.anyres import Geometry, layout, tiles
from adjudge_server.critics.preparing import TiledPicture
from adjudge_server.images import Picture


def tiled(picture: Picture, geometry: Geometry) -> TiledPicture:
    return TiledPicture(
        digest=picture.digest,
        tiles=tiles(picture.pixels, geometry),
        layout=layout(picture.size, geometry),
    )
