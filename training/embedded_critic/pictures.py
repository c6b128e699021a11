"""Pictures of digits, as varied as a small critic should bear, and their tiles.

The tiles are LLaVA-OneVision's anyres tiles for one grid pinpoint the size of the tower's image:
the whole picture stretched, and the picture fitted and centred on black.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 56
PATCH = 14
PATCHES = TILE // PATCH
PLAIN_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Picture:
    """A grey picture of one digit."""

    image: Image.Image
    digit: int
    dark_on_light: bool


def plain_picture(pixels: NDArray[np.uint8], digit: int) -> Picture:
    """The digit as the data set has it: light ink on dark paper."""
    return Picture(Image.fromarray(pixels), digit, dark_on_light=False)


def varied_picture(pixels: NDArray[np.uint8], digit: int, rng: np.random.Generator) -> Picture:
    """The digit redrawn: turned, scaled, moved, on other paper with other ink.

    Without this the critic would know 28x28 light-on-dark pictures only.
    """
    dark_on_light = bool(rng.random() < 0.4)
    if rng.random() < PLAIN_SHARE:
        drawn = pixels.astype(np.float32)
        if rng.random() < 0.5:
            drawn = np.roll(drawn, rng.integers(-2, 3, 2), (0, 1))
        paper, ink = 0.0, 255.0
    else:
        drawn = _redraw(pixels, rng)
        paper, ink = rng.uniform(0, 60), rng.uniform(170, 255)
        if rng.random() < 0.5:
            paper = 0.0
    level = drawn / 255
    if dark_on_light:
        paper, ink = 255 - paper, 255 - ink
    grey = paper + (ink - paper) * level
    if rng.random() < 0.2:
        grey = grey + rng.normal(0, rng.uniform(2, 12), grey.shape)
    return Picture(
        Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8)), digit, dark_on_light
    )


def _redraw(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    digit = Image.fromarray(pixels)
    stretch = np.exp(rng.normal(0, 0.08, 2))
    side = rng.uniform(24, 100)
    width, height = (max(12, round(side * s)) for s in stretch)
    digit = digit.resize((width, height), Image.Resampling.BICUBIC)
    digit = digit.rotate(float(rng.normal(0, 7)), Image.Resampling.BICUBIC)
    # Canvas: from slightly cropping the digit's own margin to half as large again, any aspect.
    canvas_width = max(12, round(width * rng.uniform(0.9, 1.5)))
    canvas_height = max(12, round(height * rng.uniform(0.9, 1.5)))
    canvas = Image.new("L", (canvas_width, canvas_height), 0)
    canvas.paste(
        digit,
        (_place(canvas_width, width, rng), _place(canvas_height, height, rng)),
    )
    return np.asarray(canvas, dtype=np.float32)


def _place(canvas: int, size: int, rng: np.random.Generator) -> int:
    free = canvas - size
    return round(free * rng.uniform(0.2, 0.8)) if free > 0 else free // 2


@dataclass(frozen=True, slots=True)
class Tiles:
    """What the tower sees of a picture."""

    grey: NDArray[np.uint8]
    """(2, 56, 56): stretched, then fitted. Grey stands for three equal channels."""
    kept: tuple[int, int]
    """Rows and columns of the fitted tile's patch grid that unpadding keeps."""


def tiles(image: Image.Image) -> Tiles:
    """LLaVA-OneVision's tiles of a grey picture."""
    stretched = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
    width, height = image.size
    scale_width, scale_height = TILE / width, TILE / height
    if scale_width < scale_height:
        new_width, new_height = TILE, min(math.ceil(height * scale_width), TILE)
    else:
        new_width, new_height = min(math.ceil(width * scale_height), TILE), TILE
    fitted = Image.new(image.mode, (TILE, TILE), 0)
    fitted.paste(
        image.resize((new_width, new_height), Image.Resampling.BICUBIC),
        ((TILE - new_width) // 2, (TILE - new_height) // 2),
    )
    return Tiles(np.stack([np.asarray(stretched), np.asarray(fitted)]), _kept(width, height))


def _kept(width: int, height: int) -> tuple[int, int]:
    """LLaVA-NeXT's `unpad_image` on a square grid, its truncating `int()` included."""
    if width > height:
        new_height = int(height * (PATCHES / width))
        padding = (PATCHES - new_height) // 2
        return PATCHES - 2 * padding, PATCHES
    new_width = int(width * (PATCHES / height))
    padding = (PATCHES - new_width) // 2
    return PATCHES, PATCHES - 2 * padding
