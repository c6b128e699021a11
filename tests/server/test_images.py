"""Pictures: whatever comes over the wire is the right upright RGB, or a typed refusal."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from adjudge_server.content import EncodedImage, RawImage
from adjudge_server.errors import AdjudgeError, LimitExceeded, UndecodableImage
from adjudge_server.images import Picture, decode

PLENTY = 1_000_000
ORIENTATION = 0x0112
Pixels = NDArray[np.uint8]


def file_of(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decoded(data: bytes, max_pixels: int = PLENTY) -> Picture:
    return decode(EncodedImage(data), max_pixels=max_pixels)


def pixels(picture: Picture) -> Pixels:
    assert picture.pixels.mode == "RGB"
    return np.asarray(picture.pixels)


def noise(width: int, height: int, channels: int = 3) -> Pixels:
    rng = np.random.default_rng(width * 1000 + height)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


# Orientation --------------------------------------------------------------------------------------


def stored(upright: Pixels, orientation: int) -> Pixels:
    """The rows and columns as a camera stores them, by the EXIF standard: for each orientation, on
    which visual side row 0 and column 0 lie."""
    rows, columns = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    flipped = upright
    if "bottom" in (rows, columns):
        flipped = flipped[::-1]
    if "right" in (rows, columns):
        flipped = flipped[:, ::-1]
    return np.ascontiguousarray(flipped.swapaxes(0, 1) if rows in ("left", "right") else flipped)


def with_orientation(upright: Pixels, orientation: int, file_format: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(stored(upright, orientation))
    return file_of(image, file_format, exif=exif, **options)


LOSSLESS = [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("file_format", "options"), LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_the_upright_picture(
    orientation: int, file_format: str, options: dict[str, Any]
) -> None:
    upright = noise(5, 3)
    picture = decoded(with_orientation(upright, orientation, file_format, **options))
    assert picture.size == (5, 3)
    assert np.array_equal(pixels(picture), upright)
    assert picture.digest == decoded(file_of(Image.fromarray(upright), "PNG")).digest


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_of_a_jpeg_is_the_upright_picture(orientation: int) -> None:
    upright = np.kron(noise(3, 2), np.ones((8, 8, 1), np.uint8))  # 24x16, in blocks JPEG keeps
    data = with_orientation(upright, orientation, "JPEG", quality=100, subsampling=0)
    picture = decoded(data)
    assert picture.size == (24, 16)
    assert np.abs(pixels(picture).astype(int) - upright).max() < 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0 is not what follows",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",
    ],
    ids=["garbage", "points outside", "cut off", "orientation 9"],
)
def test_a_picture_with_senseless_exif_is_taken_as_it_lies(file_format: str, exif: bytes) -> None:
    image = Image.fromarray(noise(5, 3))
    assert decoded(file_of(image, file_format, exif=exif)).size == (5, 3)


# Modes --------------------------------------------------------------------------------------------


def grey(values: list[int]) -> Pixels:
    """One row of greys, as RGB."""
    return np.repeat(np.array([values], np.uint8)[..., None], 3, axis=2)


LEVELS = [0, 1, 127, 128, 255]


def test_greys_are_equal_channels() -> None:
    image = Image.fromarray(np.array([LEVELS], np.uint8))
    assert np.array_equal(pixels(decoded(file_of(image, "PNG"))), grey(LEVELS))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_alpha_is_dropped_and_not_blended(mode: str, file_format: str) -> None:
    colours = len(mode) - 1
    raw = noise(4, 3, colours + 1)
    picture = decoded(file_of(Image.fromarray(raw, mode), file_format))
    expected = raw[..., :colours] if colours == 3 else np.repeat(raw[..., :1], 3, axis=2)
    assert np.array_equal(pixels(picture), expected)


def palette_image() -> tuple[Image.Image, Pixels]:
    palette = noise(4, 1)[0]
    indices = np.array([[0, 1, 2, 3], [3, 3, 1, 0]], np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    return image, palette[indices]


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes_are_expanded(file_format: str) -> None:
    image, expected = palette_image()
    assert np.array_equal(pixels(decoded(file_of(image, file_format))), expected)


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255, 7])], ids=["index", "a byte each"])
def test_a_transparent_palette_entry_keeps_its_colour(transparency: int | bytes) -> None:
    image, expected = palette_image()
    picture = decoded(file_of(image, "PNG", transparency=transparency))
    assert np.array_equal(pixels(picture), expected)
    assert picture.digest == decoded(file_of(image, "PNG")).digest


def test_a_transparent_colour_keeps_its_colour() -> None:
    raw = noise(4, 3)
    data = file_of(Image.fromarray(raw), "PNG", transparency=tuple(raw[0, 0].tolist()))
    assert np.array_equal(pixels(decoded(data)), raw)


def test_printing_inks_become_light() -> None:
    inks = {
        (0, 0, 0, 0): (255, 255, 255),
        (255, 0, 0, 0): (0, 255, 255),
        (0, 255, 0, 0): (255, 0, 255),
        (0, 0, 255, 0): (255, 255, 0),
        (0, 0, 0, 255): (0, 0, 0),
    }
    image = Image.fromarray(np.array([list(inks)], np.uint8), "CMYK")
    picture = decoded(file_of(image, "TIFF"))
    assert pixels(picture).tolist() == [[list(colour) for colour in inks.values()]]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white(file_format: str) -> None:
    image = Image.fromarray(np.array([[True, False, True]]))
    assert image.mode == "1"
    assert np.array_equal(pixels(decoded(file_of(image, file_format))), grey([255, 0, 255]))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled_and_not_clipped(file_format: str, order: str) -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], order)
    picture = decoded(file_of(Image.fromarray(deep), file_format))
    assert np.array_equal(pixels(picture), grey([0, 0, 1, 128, 255]))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_greys_without_a_defined_white_are_refused(kind: type) -> None:
    image = Image.fromarray(np.array([[0, 1, 1000]], kind))
    with pytest.raises(UndecodableImage):
        decoded(file_of(image, "TIFF"))


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.array_equal(pixels(decoded(data)), np.asarray(frames[0]))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_nothing_of_the_file_is_left_on_the_pixels(mode: str) -> None:
    """A leftover "transparency" would change later resizing."""
    image = Image.fromarray(noise(4, 4)).convert(mode)
    assert decoded(file_of(image, "PNG", dpi=(72, 72))).pixels.info == {}


# What is no picture -------------------------------------------------------------------------------

FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"This is a text file.\n" * 50,
        b"%PDF-1.7\n",
        b"<svg xmlns='x'/>",
        b"\x89PNG\r\n",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UndecodableImage):
        decoded(data)


@pytest.mark.parametrize("file_format", ["PPM", "TGA", "PCX", "ICO", "EPS"])
def test_formats_that_were_not_promised_are_refused(file_format: str) -> None:
    with pytest.raises(UndecodableImage):
        decoded(file_of(Image.fromarray(noise(16, 16)), file_format))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused_and_not_filled_with_grey(
    file_format: str, share: float
) -> None:
    data = file_of(Image.fromarray(noise(64, 48)), file_format)
    with pytest.raises(UndecodableImage):
        decoded(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=150)
@given(
    file_format=st.sampled_from(FORMATS),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), min_size=1, max_size=4
    ),
)
def test_a_corrupted_file_is_a_picture_or_a_typed_refusal(
    file_format: str, changes: list[tuple[float, bytes]]
) -> None:
    data = bytearray(file_of(Image.fromarray(noise(9, 7)), file_format))
    for where, what in changes:
        place = int(where * len(data))
        data[place : place + len(what)] = what
    try:
        picture = decoded(bytes(data), max_pixels=10_000)
    except AdjudgeError as error:
        assert isinstance(error, UndecodableImage | LimitExceeded)
    else:
        assert picture.pixels.mode == "RGB"
        assert picture.pixels.width * picture.pixels.height <= 10_000


# Limits -------------------------------------------------------------------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """Only a header: nobody could decode it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bmp_of_size(width: int, height: int) -> bytes:
    data = bytearray(file_of(Image.new("RGB", (1, 1)), "BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    data = bytearray(file_of(Image.new("RGB", (1, 1)), "GIF"))
    struct.pack_into("<HH", data, 6, width, height)
    return bytes(data)


def gif_with_frame_of_size(width: int, height: int) -> bytes:
    """The canvas says 1x1; the first frame does not care."""
    data = bytearray(file_of(Image.new("RGB", (1, 1)), "GIF"))
    struct.pack_into("<HH", data, data.rindex(b",") + 5, width, height)
    return bytes(data)


def jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(file_of(Image.new("RGB", (1, 1)), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def raw_of_size(width: int, height: int) -> RawImage:
    return RawImage("RGB", width, height, b"")


GIANTS: list[Callable[[int, int], bytes | RawImage]] = [
    png_of_size,
    bmp_of_size,
    gif_of_size,
    gif_with_frame_of_size,
    jpeg_of_size,
    raw_of_size,
]


@pytest.mark.parametrize("giant", GIANTS)
@pytest.mark.parametrize(("width", "height"), [(2000, 1000), (20_000, 10_000), (65_000, 65_000)])
def test_a_giant_is_refused_by_its_header_with_both_numbers(
    giant: Callable[[int, int], bytes | RawImage], width: int, height: int
) -> None:
    sent = giant(width, height)
    with pytest.raises(LimitExceeded) as refused:
        decode(sent if isinstance(sent, RawImage) else EncodedImage(sent), max_pixels=PLENTY)
    assert refused.value.metadata == {
        "limit": "max_image_pixels",
        "maximum": str(PLENTY),
        "actual": str(width * height),
    }


def test_a_limit_of_ours_that_is_higher_than_pillows_counts() -> None:
    """A header of 200 million pixels under a limit of 300 is not too large, only not a picture."""
    with pytest.raises(UndecodableImage):
        decoded(png_of_size(20_000, 10_000), max_pixels=300_000_000)


def test_a_picture_of_exactly_the_limit_is_taken() -> None:
    data = file_of(Image.fromarray(noise(5, 4)), "PNG")
    assert decoded(data, max_pixels=20).size == (5, 4)
    with pytest.raises(LimitExceeded):
        decoded(data, max_pixels=19)


# Raw pixels and digests ---------------------------------------------------------------------------


@st.composite
def raw_images(draw: st.DrawFn) -> RawImage:
    mode = draw(st.sampled_from(["L", "RGB", "RGBA"]))
    width, height = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    size = width * height * len(mode)
    return RawImage(mode, width, height, draw(st.binary(min_size=size, max_size=size)))


@settings(deadline=None, max_examples=60)
@given(image=raw_images())
def test_raw_pixels_are_the_picture_and_the_same_one_as_a_png(image: RawImage) -> None:
    picture = decode(image, max_pixels=36)
    shape = (image.height, image.width, len(image.mode))
    colours = np.frombuffer(image.data, np.uint8).reshape(shape)[..., :3]
    assert picture.size == (image.width, image.height)
    assert np.array_equal(pixels(picture), np.broadcast_to(colours, (*shape[:2], 3)))

    as_png = Image.frombytes(image.mode, (image.width, image.height), image.data)
    assert decoded(file_of(as_png, "PNG")).digest == picture.digest


@settings(deadline=None, max_examples=60)
@given(image=raw_images(), size=st.integers(0, 150))
def test_raw_pixels_of_the_wrong_number_of_bytes_are_refused(image: RawImage, size: int) -> None:
    if size == len(image.data):
        size += 1
    with pytest.raises(UndecodableImage):
        decode(RawImage(image.mode, image.width, image.height, bytes(size)), max_pixels=36)


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_raw_pixels_without_extent_are_refused(width: int, height: int) -> None:
    with pytest.raises(UndecodableImage):
        decode(RawImage("RGB", width, height, b""), max_pixels=36)


def test_the_digest_depends_on_the_size_and_not_on_the_bytes_alone() -> None:
    data = noise(30, 150).tobytes()
    tall, wide = (
        decode(RawImage("RGB", *size, data), max_pixels=PLENTY) for size in ((30, 150), (150, 30))
    )
    assert tall.pixels.tobytes() == wide.pixels.tobytes()
    assert tall.digest != wide.digest


@settings(deadline=None, max_examples=40)
@given(image=raw_images(), place=st.integers(0), change=st.integers(1, 255))
def test_the_digest_depends_on_every_channel_that_counts(
    image: RawImage, place: int, change: int
) -> None:
    place %= len(image.data)
    data = bytearray(image.data)
    data[place] = (data[place] + change) % 256
    changed = decode(RawImage(image.mode, image.width, image.height, bytes(data)), max_pixels=36)
    is_alpha = image.mode == "RGBA" and place % 4 == 3
    assert (changed.digest == decode(image, max_pixels=36).digest) == is_alpha


@pytest.mark.parametrize(("file_format", "options"), [*LOSSLESS, ("BMP", {})])
def test_the_same_pixels_in_another_file_are_the_same_picture(
    file_format: str, options: dict[str, Any]
) -> None:
    raw = noise(7, 5)
    as_raw = decode(RawImage("RGB", 7, 5, raw.tobytes()), max_pixels=PLENTY)
    as_file = decoded(file_of(Image.fromarray(raw), file_format, **options))
    assert as_file.digest == as_raw.digest


# What the original's own code does in two ways ----------------------------------------------------


def in_modes() -> dict[str, Image.Image]:
    """One picture in every mode that a file may have and that is resized differently from RGB."""
    rgba = Image.fromarray(noise(40, 30, 4), "RGBA")
    return {
        "RGBA": rgba,
        "LA": rgba.convert("LA"),
        "L": rgba.convert("L"),
        "P": rgba.convert("RGB").quantize(16),
        "1": rgba.convert("RGB").convert("1"),
        "RGB": rgba.convert("RGB"),
    }


@pytest.mark.parametrize("mode", in_modes())
def test_converted_last_a_picture_keeps_its_mode_and_is_resized_in_it(mode: str) -> None:
    data = EncodedImage(file_of(in_modes()[mode], "PNG"))
    first = decode(data, max_pixels=PLENTY)
    last = decode(data, max_pixels=PLENTY, convert_rgb="last")
    assert (first.pixels.mode, last.pixels.mode) == ("RGB", mode)
    assert (first.digest == last.digest) == (mode == "RGB")
    converted = last.pixels.convert("RGB")
    if mode not in ("RGBA", "LA"):  # whose colours are those of the pixels before alpha
        assert np.array_equal(np.asarray(converted), np.asarray(first.pixels))
    differs = not np.array_equal(shrunk(last), shrunk(first))
    assert differs == (mode in ("RGBA", "LA", "P", "1"))


def shrunk(picture: Picture) -> Pixels:
    return np.asarray(picture.pixels.resize((9, 7), Image.Resampling.BICUBIC).convert("RGB"))


def test_two_palettes_with_the_same_indices_are_two_pictures() -> None:
    one = in_modes()["P"]
    other = one.copy()
    other.putpalette(bytes(one.getpalette() or ())[::-1])
    digests = {
        decode(EncodedImage(file_of(p, "PNG")), max_pixels=PLENTY, convert_rgb="last").digest
        for p in (one, other)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_ignored_where_the_server_is_told_so(orientation: int) -> None:
    image = Image.fromarray(noise(7, 5))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = EncodedImage(file_of(image, "PNG", exif=exif))
    ignored = decode(data, max_pixels=PLENTY, exif="ignore")
    assert np.array_equal(pixels(ignored), np.asarray(image))
    applied = decode(data, max_pixels=PLENTY)
    assert np.array_equal(pixels(applied), pixels(ignored)) == (orientation == 1)
