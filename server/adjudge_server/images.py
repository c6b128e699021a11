"""Pictures: from what came over the wire to decoded RGB, with limits checked before decoding."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from adjudge_server.content import EncodedImage, RawImage
from adjudge_server.errors import LimitExceeded, UndecodableImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow's own limit would speak before ours, which is checked on every header before decoding.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture, upright, RGB."""

    pixels: Image.Image
    digest: str
    """Cache digest: SHA-256 over size and pixels. Never leaves the server, and is another thing
    than the wire digest: two files with the same pixels are one picture here."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.size


def decode(image: EncodedImage | RawImage, *, max_pixels: int) -> Picture:
    """Decodes a picture.

    EXIF orientation is applied; alpha is dropped and palettes are expanded before anything else, as
    in the training code of LLaVA-NeXT. Raises UndecodableImage or LimitExceeded, without a field.
    """
    pixels = (
        _encoded(image, max_pixels) if isinstance(image, EncodedImage) else _raw(image, max_pixels)
    )
    header = f"RGB {pixels.width} {pixels.height}\n".encode("ascii")
    return Picture(pixels, hashlib.sha256(header + pixels.tobytes()).hexdigest())


def _encoded(image: EncodedImage, max_pixels: int) -> Image.Image:
    # A decoder fed by strangers raises anything: OSError, SyntaxError, struct.error, ValueError,
    # ZeroDivisionError… Every one of them means that this is not a picture we can read.
    try:
        opened = Image.open(io.BytesIO(image.data), formats=FORMATS)
    except Exception as error:
        raise UndecodableImage(
            f"not a picture in one of the formats {', '.join(FORMATS)}"
        ) from error
    with opened:
        _check_size(*opened.size, max_pixels)
        try:
            opened.load()
            return _to_rgb(_upright(opened))
        except UndecodableImage:
            raise
        except Exception as error:
            raise UndecodableImage(f"a broken {opened.format} picture") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that makes no sense says nothing about the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit greys at 255: nearly everything would turn white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UndecodableImage(f"pictures of mode {image.mode} have no defined brightness")
    image.info.pop("transparency", None)  # or Pillow warns that it is about to be lost
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _raw(image: RawImage, max_pixels: int) -> Image.Image:
    if image.width < 1 or image.height < 1:
        raise UndecodableImage(f"raw pixels of size {image.width}x{image.height}")
    _check_size(image.width, image.height, max_pixels)
    expected = image.width * image.height * len(image.mode)  # one letter, one channel
    if len(image.data) != expected:
        raise UndecodableImage(
            f"{image.width}x{image.height} {image.mode} pixels are {expected} bytes,"
            f" not {len(image.data)}"
        )
    return Image.frombytes(image.mode, (image.width, image.height), image.data).convert("RGB")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise LimitExceeded(
            f"a picture may have at most {max_pixels} pixels",
            limit="max_image_pixels",
            maximum=max_pixels,
            actual=width * height,
        )
