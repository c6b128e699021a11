"""Pictures of one coloured shape, and questions about them: easy-VQA, fetched and verified.

The second domain: here the same picture has different right answers to different questions. The
source is the Python package `easy-vqa` 1.0 (Victor Zhou, MIT), with its own split by picture.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedded_critic.fetching import fetch_wheel

PACKAGE = "easy-vqa==1.0"
WHEEL = "easy_vqa-1.0-py3-none-any.whl"
SHA256 = "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f"
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "gray", "red", "green", "blue", "yellow", "teal", "brown")
YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class ShapeTruth:
    """What a picture shows, and questions about it with their answers."""

    shape: str
    colour: str
    questions: tuple[tuple[str, str], ...]

    @property
    def shown(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class ShapePictures:
    """Pictures and their truths."""

    pixels: NDArray[np.uint8]
    """(n, 64, 64, 3)"""
    truths: tuple[ShapeTruth, ...]

    def __len__(self) -> int:
        return len(self.truths)


def load_shapes(cache: Path) -> tuple[ShapePictures, ShapePictures]:
    """4,000 pictures for training and 1,000 held out.

    Downloads the package into `cache` with pip the first time. Raises ValueError if what arrives is
    not the pinned wheel.
    """
    wheel = fetch_wheel(cache, WHEEL, PACKAGE, SHA256)
    with zipfile.ZipFile(wheel) as package:
        training, held_out = (_read(package, part) for part in ("train", "test"))
    return training, held_out


def _read(package: zipfile.ZipFile, part: str) -> ShapePictures:
    folder = f"easy_vqa/data/{part}"
    asked: dict[int, list[tuple[str, str]]] = {}
    for question, answer, image in json.loads(package.read(f"{folder}/questions.json")):
        asked.setdefault(int(image), []).append((question, answer))
    pixels, truths = [], []
    for image, questions in sorted(asked.items()):
        shape, colour = _only(questions, SHAPES), _only(questions, COLOURS)
        if shape is None or colour is None:
            continue  # a few pictures are asked nothing that tells
        with Image.open(io.BytesIO(package.read(f"{folder}/images/{image}.png"))) as picture:
            pixels.append(np.asarray(picture.convert("RGB")))
        truths.append(ShapeTruth(shape, colour, tuple(questions)))
    return ShapePictures(np.stack(pixels), tuple(truths))


def _only(questions: list[tuple[str, str]], words: tuple[str, ...]) -> str | None:
    """Which of the words the picture shows: said as an answer, or in a question that is true."""
    for question, answer in questions:
        if answer in words:
            return answer
        named = [word for word in words if word in question.rstrip("?").split()]
        denied = " not " in question or " no " in question
        if named and answer in YES_NO and (answer == "yes") != denied:
            return named[0]
        if named and answer not in YES_NO:  # "what color is the triangle?"
            return named[0]
    return None
