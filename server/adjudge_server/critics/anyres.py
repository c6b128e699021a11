"""Image preprocessing of LLaVA-OneVision, `anyres_max_9`, with Pillow and numpy alone.

A picture becomes a base tile (the whole picture, stretched to a square) and a grid of tiles (the
picture at the grid's resolution, aspect kept, centred on black). After the vision tower, the grid's
padding is cut away, a large grid is shrunk, and a newline feature ends every row. Facts of the
original that look like mistakes and are not to be mended: sizes are rounded up when resizing but
truncated when unpadding, and the base tile is stretched, not padded.
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


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a picture of some size lands. Everything here follows from the size alone."""

    grid_tiles: tuple[int, int]
    """Tiles across and down."""
    unpadded: tuple[int, int, int, int]
    """left, top, right, bottom: the patches of the grid that show the picture."""
    shrunk: tuple[int, int]
    """Patches across and down after shrinking; the size of `unpadded` where nothing is shrunk."""
    base_patches: int

    @property
    def num_tokens(self) -> int:
        width, height = self.shrunk
        return self.base_patches + height * (width + 1)


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


def best_grid(size: tuple[int, int], grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The resolution that keeps most of the picture's pixels, and of those the least wasteful."""
    width, height = size

    def fit(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[0] / width, grid[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - grid[0] * grid[1]

    return max(grids, key=fit)  # the first of equals, as in the original


def tiles(image: Image.Image, geometry: Geometry) -> NDArray[np.float32]:
    """(1 + n, 3, tile, tile) normalised pixels of an RGB picture: base tile, then row by row."""
    side = geometry.tile
    grid = best_grid(image.size, geometry.grids)
    padded = _resize_and_pad(image, grid)
    squares = [image.resize((side, side), Image.Resampling.BICUBIC)]
    for top in range(0, grid[1], side):
        squares += [
            padded.crop((left, top, left + side, top + side)) for left in range(0, grid[0], side)
        ]
    pixels = np.stack([np.asarray(square) for square in squares])  # (1 + n, tile, tile, 3) uint8
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
