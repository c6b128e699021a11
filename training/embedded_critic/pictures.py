"""Pictures of digits, as varied as a small critic should bear."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

PLAIN_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of one digit, in RGB."""

    image: Image.Image
    digit: int
    dark_on_light: bool
    """Whether the ink is darker than the paper."""
    coloured: bool
    """Then nothing should be claimed of ink and paper in black and white."""


def plain_picture(pixels: NDArray[np.uint8], digit: int) -> Picture:
    """The digit as the data set has it: light ink on dark paper."""
    image = Image.fromarray(pixels).convert("RGB")
    return Picture(image, digit, dark_on_light=False, coloured=False)


def varied_picture(
    pixels: NDArray[np.uint8],
    digit: int,
    rng: np.random.Generator,
    neighbour: NDArray[np.uint8] | None = None,
) -> Picture:
    """The digit redrawn: turned, scaled, moved, on other paper with other ink, compressed.

    Without this the critic would know 28x28 light-on-dark pictures only. A `neighbour` is another
    digit of which a part may show at the side, as in photographs of house numbers.
    """
    dark_on_light = bool(rng.random() < 0.4)
    if rng.random() < PLAIN_SHARE:
        if rng.random() < 0.6:
            pixels = np.asarray(_bent(Image.fromarray(pixels), rng))
        level = np.roll(pixels.astype(np.float32) / 255, rng.integers(-2, 3, 2), (0, 1))
        ink, paper = np.full(3, 255.0), np.zeros(3)
        coloured = False
    else:
        level = _redraw(pixels, rng, neighbour) / 255
        if rng.random() < 0.25:  # another thickness of stroke
            level = level ** rng.uniform(0.5, 1.6)
        coloured = bool(rng.random() < 0.3)
        ink, paper = _colours(rng) if coloured else _greys(rng)
    if dark_on_light:
        ink, paper = (paper, ink) if coloured else (255 - ink, 255 - paper)
    rgb = paper + (ink - paper) * level[..., None]
    if coloured and rng.random() < 0.5:  # light that falls from one side
        height, width = level.shape
        slope = np.linspace(-1, 1, width)[None, :, None] * rng.uniform(-30, 30)
        rgb = rgb + slope + np.linspace(-1, 1, height)[:, None, None] * rng.uniform(-30, 30)
    if rng.random() < 0.25:
        rgb = rgb + rng.normal(0, rng.uniform(2, 14), rgb.shape)
    image = Image.fromarray(np.clip(np.round(rgb), 0, 255).astype(np.uint8))
    return Picture(worn(image, rng), digit, dark_on_light, coloured)


def _greys(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    paper = rng.uniform(0, 60) if rng.random() < 0.5 else 0.0
    return np.full(3, rng.uniform(170, 255)), np.full(3, paper)


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ink and paper that differ in brightness by a quarter of the range at least."""
    while True:
        ink, paper = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
        if _LUMA @ (ink - paper) > 64:
            return ink, paper


_LUMA = np.array([0.299, 0.587, 0.114])


def worn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Sometimes blurred, sometimes through JPEG."""
    if rng.random() < 0.12:
        image = image.filter(
            ImageFilter.GaussianBlur(rng.uniform(0.2, 0.2 + 0.02 * min(image.size)))
        )
    if rng.random() < 0.15:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(25, 95)))
        image = Image.open(stream).convert("RGB")
    return image


def _redraw(
    pixels: NDArray[np.uint8], rng: np.random.Generator, neighbour: NDArray[np.uint8] | None
) -> NDArray[np.float32]:
    digit = Image.fromarray(pixels)
    stretch = np.exp(rng.normal(0, 0.1, 2))
    side = rng.uniform(24, 100) if rng.random() < 0.85 else rng.uniform(9, 20)
    width, height = (max(8, round(side * s)) for s in stretch)
    digit = _bent(digit, rng)  # before it is made small: eight pixels cannot be turned
    tight = rng.random() < 0.2
    if tight:  # no margin at all, as in the 8x8 and 16x16 collections
        left, top, right, bottom = digit.point(lambda v: 255 * (v > 40)).getbbox() or (0, 0, 28, 28)
        digit = digit.crop((left, top, right, bottom))
    digit = digit.resize((width, height), Image.Resampling.BOX if side < 20 else _BICUBIC)
    # Canvas: from slightly cropping the digit's own margin to half as large again, any aspect.
    low = 1.0 if tight else 0.9
    canvas_width = max(8, round(width * rng.uniform(low, 1.5)))
    canvas_height = max(8, round(height * rng.uniform(low, 1.5)))
    canvas = Image.new("L", (canvas_width, canvas_height), 0)
    place = _place(canvas_width, width, rng), _place(canvas_height, height, rng)
    if neighbour is not None:
        other = Image.fromarray(neighbour).resize((width, height), _BICUBIC)
        shift = round(width * rng.uniform(0.75, 0.9)) * (1 if rng.random() < 0.5 else -1)
        canvas.paste(other, (place[0] + shift, place[1]))
        drawn = Image.new("L", canvas.size, 0)
        drawn.paste(digit, place)
        return np.asarray(ImageChops.lighter(canvas, drawn), dtype=np.float32)
    canvas.paste(digit, place)
    return np.asarray(canvas, dtype=np.float32)


def _bent(digit: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned, slanted and stretched a little around its middle."""
    angle, slant = np.radians(rng.normal(0, 7)), rng.normal(0, 0.12)
    width, height = np.exp(rng.normal(0, 0.07, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    (a, b), (d, e) = np.array([[cos, sin], [-sin, cos]]) @ [[width, slant], [0, height]]
    middle = (digit.width - 1) / 2
    matrix = (a, b, middle * (1 - a - b), d, e, middle * (1 - d - e))
    return digit.transform(digit.size, Image.Transform.AFFINE, matrix, _BICUBIC)


_BICUBIC = Image.Resampling.BICUBIC


def _place(canvas: int, size: int, rng: np.random.Generator) -> int:
    free = canvas - size
    return round(free * rng.uniform(0.2, 0.8)) if free > 0 else free // 2
