"""What the tower is trained on: varied pictures of both domains, with their classes.

A picture has two classes, and every patch should know both: *what* it shows (a digit or a shape)
and *how* (ink and paper of a digit, the colour of a shape).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adjudge_server.critics import anyres
from embedded_critic.digits import Digits
from embedded_critic.phrases import WORDS
from embedded_critic.pictures import varied_picture, worn
from embedded_critic.rubric import Truth
from embedded_critic.shapes import COLOURS, SHAPES, ShapePictures, ShapeTruth

WHAT = (*WORDS, *SHAPES)
HOW = ("light on dark", "dark on light", *COLOURS)
TILE = 56
PATCH = 14
GEOMETRY = anyres.Geometry(TILE, PATCH, ((TILE, TILE),))
"""One grid, the size of the tower's image: every picture is two tiles."""
NEIGHBOUR_SHARE = 0.1
SHAPE_SHARE = 0.22


@dataclass(frozen=True, slots=True)
class View:
    """A picture as the tower sees it, and what it shows."""

    pixels: NDArray[np.float32]
    """(2, 3, 56, 56), normalised: the picture stretched, and fitted and centred on black."""
    kept: tuple[int, int]
    """Rows and columns of the second tile's patch grid that unpadding keeps."""
    truth: Truth | ShapeTruth

    @property
    def what(self) -> int:
        """Index into WHAT."""
        truth = self.truth
        return truth.digit if isinstance(truth, Truth) else WHAT.index(truth.shape)

    @property
    def how(self) -> int:
        """Index into HOW."""
        truth = self.truth
        return int(truth.dark_on_light) if isinstance(truth, Truth) else HOW.index(truth.colour)


def view_of(image: Image.Image, truth: Truth | ShapeTruth) -> View:
    """An RGB picture through the server's own preprocessing."""
    left, top, right, bottom = anyres.layout(image.size, GEOMETRY).unpadded
    return View(anyres.tiles(image, GEOMETRY), (bottom - top, right - left), truth)


def random_views(
    digits: Digits, shapes: ShapePictures, count: int, rng: np.random.Generator
) -> list[View]:
    return [
        _shape_view(shapes, rng) if rng.random() < SHAPE_SHARE else _digit_view(digits, rng)
        for _ in range(count)
    ]


def _digit_view(digits: Digits, rng: np.random.Generator) -> View:
    index, other = rng.integers(0, len(digits), 2)
    neighbour = digits.pixels[other] if rng.random() < NEIGHBOUR_SHARE else None
    pixels, label = digits.pixels[index], int(digits.labels[index])
    drawn = varied_picture(pixels, label, rng, neighbour)
    return view_of(drawn.image, Truth(label, drawn.dark_on_light, drawn.coloured))


def _shape_view(shapes: ShapePictures, rng: np.random.Generator) -> View:
    index = int(rng.integers(len(shapes)))
    pixels: NDArray[np.uint8] = shapes.pixels[index]
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if rng.random() < 0.5:
        pixels = pixels[::-1]
    image = worn(Image.fromarray(np.ascontiguousarray(pixels)), rng)
    return view_of(image, shapes.truths[index])
