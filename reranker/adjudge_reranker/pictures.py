"""Pictures, from what programs hold to what the contract carries.

Files are sent as they are; decoded pictures are sent as pixels, because compressing them again is
slow (PNG) or changes them (JPEG). Nothing here fetches a URL, and a plain string is never a path.
"""

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    import numpy
    import PIL.Image

ImageLike: TypeAlias = Union[
    "Image", bytes, bytearray, memoryview, Path, "PIL.Image.Image", "numpy.ndarray"
]
"""What is taken for a picture: an `Image`, the bytes of an encoded file, a `pathlib.Path` to one,
a PIL image, or a uint8 array of shape (height, width), (height, width, 3) or (height, width, 4)."""

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
_SAME_PIXELS_AS = {"1": "L", "LA": "RGBA", "PA": "RGBA", "RGBX": "RGB"}
_EXACT_FORMATS = {"CMYK": "TIFF", "I;16": "PNG"}
"""PIL modes that raw pixels cannot hold, and a lossless file format that can."""


@dataclass(frozen=True, slots=True)
class RawPixels:
    """Uncompressed pixels: 8 bits a channel, interleaved, rows from top to bottom, no padding."""

    mode: str
    """"L", "RGB" or "RGBA" (straight alpha)."""
    width: int
    """Pixels; at least 1."""
    height: int
    """Pixels; at least 1."""
    data: bytes = field(repr=False)
    """width * height * channels bytes."""

    def __post_init__(self) -> None:
        if self.mode not in _CHANNELS:
            raise ValueError(f"mode must be one of {', '.join(_CHANNELS)}, not {self.mode!r}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a picture of {self.width} x {self.height} pixels has none")
        expected = self.width * self.height * _CHANNELS[self.mode]
        if len(self.data) != expected:
            raise ValueError(
                f"{self.width} x {self.height} pixels of mode {self.mode} are {expected} bytes, "
                f"not {len(self.data)}"
            )


@dataclass(frozen=True, slots=True)
class Image:
    """A picture, as an encoded file or as pixels. Equal if what is sent is equal.

    `Image.open` reads a file; `to_image` takes everything else that counts as a picture.
    """

    source: bytes | RawPixels = field(repr=False)
    """The bytes of a file (PNG, JPEG, WebP, GIF, BMP, TIFF), or pixels."""
    wire_digest: bytes = field(init=False, compare=False, repr=False)
    """SHA-256, 32 bytes, by which the server knows the picture once it was sent."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        if isinstance(self.source, RawPixels):
            pixels = self.source
            digest.update(f"{pixels.mode} {pixels.width} {pixels.height}\n".encode("ascii"))
            digest.update(pixels.data)
        elif self.source:
            digest.update(self.source)
        else:
            raise ValueError("a picture of no bytes")
        object.__setattr__(self, "wire_digest", digest.digest())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Image":
        """Reads an encoded file. The server decodes it, honouring its EXIF orientation.

        Raises OSError if the file cannot be read.
        """
        return cls(Path(path).read_bytes())

    @property
    def num_bytes(self) -> int:
        """Size of what is sent when the picture itself is sent."""
        return len(self.source.data if isinstance(self.source, RawPixels) else self.source)


def to_image(value: ImageLike) -> Image:
    """The picture that `value` is.

    Raises TypeError if it is of another type, ValueError if it is a PIL mode or an array that
    cannot be sent without changing its values, OSError if a file cannot be read.
    """
    import numpy
    import PIL.Image

    if isinstance(value, Image):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return Image(bytes(value))
    if isinstance(value, Path):
        return Image.open(value)
    if isinstance(value, PIL.Image.Image):
        return _from_pil(value)
    if isinstance(value, numpy.ndarray):
        return _from_array(value)
    raise TypeError(
        f"{_type_name(value)} is not a picture: pass bytes, a pathlib.Path, a PIL image, a uint8 "
        "numpy array or an adjudge_reranker.Image"
    )


def _from_pil(image: "PIL.Image.Image") -> Image:
    from PIL import ImageOps

    # Cameras store pictures lying on their side; the tag is lost with the file, so turn them now.
    image = ImageOps.exif_transpose(image)  # a copy in any case
    if image.mode in _EXACT_FORMATS:
        image.info = {}  # such as the compression of the file it came from, which may lose
        file = io.BytesIO()
        image.save(file, _EXACT_FORMATS[image.mode])
        return Image(file.getvalue())
    mode = _raw_mode(image)
    if mode != image.mode:
        image = image.convert(mode)
    return Image(RawPixels(mode, image.width, image.height, image.tobytes()))


def _raw_mode(image: "PIL.Image.Image") -> str:
    """The mode of the contract that holds the same picture."""
    palette_mode = image.palette.mode if image.mode == "P" and image.palette else ""
    if "transparency" in image.info and image.mode in {"1", "L", "RGB", "P"}:
        return "RGBA"
    if image.mode == "P":
        return "RGBA" if palette_mode == "RGBA" else "RGB"
    if image.mode in _CHANNELS:
        return image.mode
    if image.mode in _SAME_PIXELS_AS:
        return _SAME_PIXELS_AS[image.mode]
    raise ValueError(
        f"a PIL image of mode {image.mode} has no exact equal in 8-bit grey or RGB: convert it "
        "as you see fit, for example with image.convert('RGB')"
    )


def _from_array(array: "numpy.ndarray") -> Image:
    if array.dtype != "uint8":
        raise ValueError(f"a picture is an array of uint8 in 0..255, not of {array.dtype}")
    modes = {(2, 1): "L", (3, 3): "RGB", (3, 4): "RGBA"}
    mode = modes.get((array.ndim, array.shape[2] if array.ndim == 3 else 1))
    if mode is None:
        raise ValueError(
            "a picture is an array of shape (height, width), (height, width, 3) or "
            f"(height, width, 4), not {array.shape}"
        )
    return Image(RawPixels(mode, array.shape[1], array.shape[0], array.tobytes()))


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
