"""Pictures: from what came over the wire to decoded pixels, with limits checked before decoding."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from adjudge_server.content import EncodedImage, RawImage
from adjudge_server.errors import LimitExceeded, UndecodableImage
from adjudge_server.preprocessing import FORMATS, MAX_SIDE, ConvertRgb, Exif

BYTES_PER_PIXEL = 4
"""Of decoded pictures; Pillow pads RGB."""

# Pillow's own limit would speak before ours, which is checked on every header before decoding.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture."""

    pixels: Image.Image
    """RGB, or, where it is converted last, in the mode it was stored in."""
    digest: str
    """Cache digest: SHA-256 over mode, size and pixels. Never leaves the server, and is another
    thing than the wire digest: two files with the same pixels are one picture here."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.size


def decode(
    image: EncodedImage | RawImage,
    *,
    max_pixels: int,
    max_side: int = MAX_SIDE,
    formats: tuple[str, ...] = FORMATS,
    convert_rgb: ConvertRgb = "first",
    exif: Exif = "apply",
    reserve: Callable[[int], None] = lambda num_bytes: None,
) -> Picture:
    """Decodes a picture.

    `reserve` is told how many bytes the pixels will take, before they take them, and may raise.

    Converted first, alpha is dropped and palettes are expanded before anything else, as in the
    training code of LLaVA-NeXT. Converted last, a picture is resized in its own mode, as the
    published snippet does: alpha weighs the colours that are averaged, and palettes and bilevel
    pictures are resized by their nearest neighbours. The original never looks at EXIF orientation.
    Raises UndecodableImage or LimitExceeded, without a field.
    """

    def admit(width: int, height: int) -> None:
        _check("pixels", width * height, max_pixels)
        _check("side", max(width, height), max_side)
        reserve(width * height * BYTES_PER_PIXEL)

    pixels = (
        _encoded(image, formats, exif, admit)
        if isinstance(image, EncodedImage)
        else _raw(image, admit)
    )
    if convert_rgb == "first" or pixels.mode not in _OWN_MODES:
        pixels = pixels.convert("RGB")
    pixels.info = {}
    return Picture(pixels, _digest(pixels))


_OWN_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")


def _digest(pixels: Image.Image) -> str:
    header = f"{pixels.mode} {pixels.width} {pixels.height}\n".encode("ascii")
    palette = bytes(pixels.getpalette() or ())
    return hashlib.sha256(header + palette + pixels.tobytes()).hexdigest()


def _encoded(
    image: EncodedImage, formats: tuple[str, ...], exif: Exif, admit: Callable[[int, int], None]
) -> Image.Image:
    # A decoder fed by strangers raises anything: OSError, SyntaxError, struct.error, ValueError,
    # ZeroDivisionError… Every one of them means that this is not a picture we can read.
    try:
        opened = Image.open(io.BytesIO(image.data), formats=formats)
    except Exception as error:
        raise UndecodableImage(
            f"not a picture in one of the formats {', '.join(formats)}"
        ) from error
    with opened:
        admit(*opened.size)
        try:
            opened.load()
            return _in_8_bits(_upright(opened) if exif == "apply" else opened.copy())
        except UndecodableImage:
            raise
        except Exception as error:
            raise UndecodableImage(f"a broken {opened.format} picture") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that makes no sense says nothing about the pixels
        return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit greys at 255: nearly everything would turn white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UndecodableImage(f"pictures of mode {image.mode} have no defined brightness")
    image.info.pop("transparency", None)  # or Pillow warns that it is about to be lost
    return image


def _raw(image: RawImage, admit: Callable[[int, int], None]) -> Image.Image:
    if image.width < 1 or image.height < 1:
        raise UndecodableImage(f"raw pixels of size {image.width}x{image.height}")
    admit(image.width, image.height)
    expected = image.width * image.height * len(image.mode)  # one letter, one channel
    if len(image.data) != expected:
        raise UndecodableImage(
            f"{image.width}x{image.height} {image.mode} pixels are {expected} bytes,"
            f" not {len(image.data)}"
        )
    return Image.frombytes(image.mode, (image.width, image.height), image.data)


def _check(what: str, actual: int, maximum: int) -> None:
    if actual > maximum:
        raise LimitExceeded(
            f"a picture may have at most {maximum} pixels{' a side' if what == 'side' else ''}",
            limit=f"max_image_{what}",
            maximum=maximum,
            actual=actual,
        )
