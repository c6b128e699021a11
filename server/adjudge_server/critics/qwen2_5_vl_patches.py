"""Image preprocessing of Qwen2.5-VL, with Pillow and numpy alone.

A picture is resized as a whole, so that both sides are multiples of a feature's side and its area
is within the checkpoint's limits, and cut into patches. The tower makes one feature of a square of
patches, which therefore follow each other.
"""

from dataclasses import dataclass
from functools import cache, partial
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adjudge_server.critics.preparing import TiledPicture
from adjudge_server.errors import UnsupportedContent
from adjudge_server.images import Picture

LONGEST = 200
"""Times its width that a picture may be high, or the other way round."""


@dataclass(frozen=True, slots=True)
class Patching:
    """What a checkpoint fixes."""

    patch: int
    """Pixels along a patch's side."""
    merge: int
    """Patches along a feature's side."""
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of red, green and blue, as shares of 255."""

    @property
    def step(self) -> int:
        """Pixels along a feature's side."""
        return self.patch * self.merge


@dataclass(frozen=True, slots=True)
class Grid:
    """Features of a picture, across and down. See `preparing.PictureLayout`."""

    across: int
    down: int

    @property
    def num_tokens(self) -> int:
        return self.across * self.down

    @property
    def num_positions(self) -> int:
        """Its longer side: the text goes on after the largest position in it."""
        return max(self.across, self.down)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """All at the same time, row by row."""
        down, across = np.divmod(np.arange(self.num_tokens), self.across)
        return np.stack([np.zeros_like(down), down, across])


class Patcher:
    """A `preparing.Tile`: cuts the pictures of a prompt, each alike however many there are."""

    def __init__(self, patching: Patching) -> None:
        self._patching = patching

    def __call__(self, picture: Picture, num_pictures: int) -> TiledPicture[Grid]:
        """Raises UnsupportedContent for a picture that is too long."""
        return patched(picture, self._patching)


def patched(picture: Picture, patching: Patching) -> TiledPicture[Grid]:
    """Raises UnsupportedContent for a picture that is too long."""
    width, height = fitted(picture.size, patching)
    return TiledPicture(
        digest=f"{picture.digest} patches",
        layout=Grid(width // patching.step, height // patching.step),
        cut=cache(partial(patches, picture.pixels, patching)),
    )


def fitted(size: tuple[int, int], patching: Patching) -> tuple[int, int]:
    """The width and height that a picture is resized to: the nearest multiples of a feature's side;
    where that is too large or too small, the largest or smallest that is not, of about the same
    shape. Raises UnsupportedContent for a picture that is too long."""
    width, height = size
    if max(size) > LONGEST * min(size):
        raise UnsupportedContent(
            f"the critic takes no picture with one side more than {LONGEST} times the other",
            field="prompt",
            width=width,
            height=height,
        )
    step = patching.step
    nearest = round(width / step) * step, round(height / step) * step
    area = nearest[0] * nearest[1]
    if area > patching.max_pixels:
        scale = sqrt(width * height / patching.max_pixels)
        return (
            max(step, floor(width / scale / step) * step),
            max(step, floor(height / scale / step) * step),
        )
    if area < patching.min_pixels:
        scale = sqrt(patching.min_pixels / (width * height))
        return ceil(width * scale / step) * step, ceil(height * scale / step) * step
    return nearest


def patches(image: Image.Image, patching: Patching) -> NDArray[np.float32]:
    """(patches, 3, patch, patch) normalised pixels, those of each feature together."""
    resized = _rgb(image).resize(fitted(image.size, patching), Image.Resampling.BICUBIC)
    side, merge = patching.patch, patching.merge
    across, down = resized.width // patching.step, resized.height // patching.step
    cut = np.asarray(resized).reshape(down, merge, side, across, merge, side, 3)
    ordered = cut.transpose(0, 3, 1, 4, 6, 2, 5)  # feature, patch within it, colour, pixels
    ordered = ordered.reshape(-1, 3, side, side)
    normalised = np.empty(ordered.shape, np.float32)
    for colour, numbers in enumerate(_normalised(patching)):
        normalised[:, colour] = numbers[ordered[:, colour]]
    return normalised


def _normalised(patching: Patching) -> NDArray[np.float32]:
    """(3, 256): of red, green and blue, what each value of a pixel becomes."""
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(patching.mean, np.float32), np.array(patching.std, np.float32)
    return (scaled - mean[:, None]) / std[:, None]


def _rgb(image: Image.Image) -> Image.Image:
    """What is transparent is white, as in the original. (Pictures that are converted first have
    lost their transparency before they come here.)"""
    if "A" not in image.getbands():
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
