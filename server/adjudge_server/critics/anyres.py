"""Image preprocessing of LLaVA-OneVision, `anyres_max_9` and `pad`, with Pillow and numpy alone.

A picture becomes a base tile (the whole picture, stretched to a square) and a grid of tiles (the
picture at the grid's resolution, aspect kept, centred on black). After the vision tower, the grid's
padding is cut away, a large grid is shrunk, and a newline feature ends every row. Facts of the
original that look like mistakes and are not to be mended: sizes are rounded up when resizing but
truncated when unpadding, and the base tile is stretched, not padded. A picture that is not RGB is
resized as it is and converted after.

With `pad`, the picture is centred on a grey square instead, which is the only tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a checkpoint fixes. Sizes in pixels, (width, height)."""

    tile: int
    patch: int
    grids: tuple[tuple[int, int], ...]
    """Resolutions a grid of tiles may have."""
    max_tiles: int = 9
    """A grid with more patches than this many tiles is shrunk, beyond a slack of 1.1 a side."""

    @property
    def patches(self) -> int:
        """Patches along a tile's side."""
        return self.tile // self.patch

    @property
    def most_tiles(self) -> int:
        """Of any picture, the base tile included."""
        return 1 + max(width * height for width, height in self.grids) // self.tile**2


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a picture of some size lands. Everything here follows from the size alone."""

    grid_tiles: tuple[int, int]
    """Tiles across and down."""
    unpadded: tuple[int, int, int, int]
    """left, top, right, bottom: the patches of the grid that show the picture."""
    shrunk: tuple[int, int]
    """Patches across and down after shrinking; the size of `unpadded` where nothing is shrunk.
    Every row ends in a newline, also the one empty row of a picture without a grid."""
    base_patches: int

    @property
    def num_tokens(self) -> int:
        width, height = self.shrunk
        return self.base_patches + height * (width + 1)

    @property
    def num_positions(self) -> int:
        """See `preparing.PictureLayout`."""
        return self.num_tokens

    @property
    def offsets(self) -> None:
        """See `preparing.PictureLayout`."""
        return None


def layout(size: tuple[int, int], geometry: Geometry) -> Layout:
    width, height = size
    grid_width, grid_height = best_grid(size, geometry.grids)
    tiles = grid_width // geometry.tile, grid_height // geometry.tile
    across, down = tiles[0] * geometry.patches, tiles[1] * geometry.patches
    left, top, right, bottom = 0, 0, across, down
    if width / height > across / down:
        padding = (down - int(height * (across / width))) // 2
        top, bottom = padding, down - padding
    else:
        padding = (across - int(width * (down / height))) // 2
        left, right = padding, across - padding
    shrunk = right - left, bottom - top
    slack = sqrt(shrunk[1] * shrunk[0] / (geometry.max_tiles * geometry.patches**2))
    if slack > 1.1:
        shrunk = int(shrunk[0] // slack), int(shrunk[1] // slack)
    return Layout(tiles, (left, top, right, bottom), shrunk, geometry.patches**2)


def padded_layout(geometry: Geometry) -> Layout:
    """Of any picture that is padded to one tile."""
    return Layout((0, 0), (0, 0, 0, 0), (0, 1), geometry.patches**2)


def best_grid(size: tuple[int, int], grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The resolution that keeps most of the picture's pixels, and of those the least wasteful."""
    width, height = size

    def fit(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[0] / width, grid[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - grid[0] * grid[1]

    return max(grids, key=fit)  # the first of equals, as in the original


def tiles(image: Image.Image, geometry: Geometry) -> NDArray[np.float32]:
    """(1 + n, 3, tile, tile) normalised pixels: base tile, then the grid's row by row."""
    side = geometry.tile
    grid = best_grid(image.size, geometry.grids)
    padded = _resize_and_pad(image, grid)
    squares = [image.resize((side, side), Image.Resampling.BICUBIC)]
    for top in range(0, grid[1], side):
        squares += [
            padded.crop((left, top, left + side, top + side)) for left in range(0, grid[0], side)
        ]
    return _normalised(squares)


def padded_tile(image: Image.Image, side: int) -> NDArray[np.float32]:
    """(1, 3, side, side) normalised pixels, the picture centred on a square of mid grey."""
    if image.mode != "RGBA":  # the original takes no others: it fails at a grey of three channels
        image = image.convert("RGB")
    longest = max(image.size)
    square = Image.new(image.mode, (longest, longest), _MID_GREY)
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    return _normalised([square.resize((side, side), Image.Resampling.BICUBIC)])


_MID_GREY = (127, 127, 127)


def _normalised(squares: Sequence[Image.Image]) -> NDArray[np.float32]:
    pixels = np.stack([np.asarray(square.convert("RGB")) for square in squares])
    scaled = pixels.astype(np.float64) * (1 / 255)
    normalised = (scaled.astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def _resize_and_pad(image: Image.Image, grid: tuple[int, int]) -> Image.Image:
    width, height = image.size
    scale_width, scale_height = grid[0] / width, grid[1] / height
    if scale_width < scale_height:
        resized = grid[0], min(ceil(height * scale_width), grid[1])
    else:
        resized = min(ceil(width * scale_height), grid[0]), grid[1]
    canvas = Image.new("RGB", grid)
    offset = (grid[0] - resized[0]) // 2, (grid[1] - resized[1]) // 2
    canvas.paste(image.resize(resized, Image.Resampling.BICUBIC), offset)
    return canvas
