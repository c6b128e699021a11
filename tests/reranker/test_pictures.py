"""Whatever holds a picture, the server gets its pixels as they are, upright."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adjudge_reranker import Image, RawPixels, RewardClient, to_image
from tests.conftest import SEVEN

ORIENTATION = 0x0112


def pixels_of(image: Image) -> np.ndarray:
    """(height, width, channels), as the server reads them."""
    if isinstance(image.source, RawPixels):
        raw = image.source
        shape = (raw.height, raw.width, len(raw.mode))
        return np.frombuffer(raw.data, np.uint8).reshape(shape)
    decoded = np.asarray(PIL.Image.open(io.BytesIO(image.source)))
    return decoded.reshape(*decoded.shape[:2], -1)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([None, 3, 4])).map(
    lambda shape: tuple(size for size in shape if size is not None)
)
pictures = arrays.arrays(np.uint8, shapes)


@given(array=pictures)
def test_an_array_keeps_its_pixels(array: np.ndarray) -> None:
    assert np.array_equal(pixels_of(to_image(array)).squeeze(), array.squeeze())


@given(array=pictures)
def test_the_memory_layout_of_an_array_does_not_matter(array: np.ndarray) -> None:
    plain = to_image(array)
    assert to_image(np.asfortranarray(array)) == plain
    assert to_image(array[::-1][::-1]) == plain
    assert to_image(np.repeat(array, 2, axis=1)[:, ::2]) == plain


@given(array=pictures)
def test_a_pil_image_is_its_array(array: np.ndarray) -> None:
    image = to_image(PIL.Image.fromarray(array))
    assert image == to_image(array)
    assert image.wire_digest == to_image(array).wire_digest


@given(array=pictures)
def test_the_same_bytes_in_another_shape_are_another_picture(array: np.ndarray) -> None:
    turned = np.ascontiguousarray(array.reshape(array.shape[1], array.shape[0], *array.shape[2:]))
    same = array.shape == turned.shape
    assert (to_image(array) == to_image(turned)) is same
    assert (to_image(array).wire_digest == to_image(turned).wire_digest) is same


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"])
def test_a_mode_with_an_exact_equal_is_sent_as_pixels(mode: str) -> None:
    gradient = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    image = PIL.Image.fromarray(gradient).convert("L" if mode in ("LA", "PA") else "RGB")
    image = image.convert(mode)
    sent = to_image(image)
    assert isinstance(sent.source, RawPixels)
    assert sent.source.mode in ("L", "RGB", "RGBA")
    expected = np.asarray(image.convert(sent.source.mode))
    assert np.array_equal(pixels_of(sent).squeeze(), expected)
    if mode != "RGBX":  # Pillow cannot go back there
        assert PIL.Image.fromarray(expected).convert("RGBA") == image.convert("RGBA")


def test_the_transparency_of_a_palette_is_kept() -> None:
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    assert pixels_of(to_image(image)).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    image.info["transparency"] = 1
    assert pixels_of(to_image(image)).tolist() == [[[255, 0, 0, 255], [0, 255, 0, 0]]]


def test_cmyk_is_sent_in_a_file_that_loses_nothing() -> None:
    values = np.arange(16 * 16 * 4, dtype=np.uint8).reshape(16, 16, 4)
    image = PIL.Image.frombytes("CMYK", (16, 16), values.tobytes())
    image.info["compression"] = "jpeg"  # as an image from a TIFF file has it
    assert np.array_equal(pixels_of(to_image(image)), values)


def test_sixteen_bits_are_sent_in_a_file_that_loses_nothing() -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    image = PIL.Image.fromarray(values)
    assert image.mode == "I;16"
    assert np.array_equal(pixels_of(to_image(image))[..., 0], values)


@pytest.mark.parametrize("mode", ["F", "I", "HSV", "LAB", "YCbCr"])
def test_a_mode_without_an_exact_equal_is_refused_by_name(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode} "):
        to_image(PIL.Image.new(mode, (2, 2)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    """Of a 24 x 16 photograph taken with the camera on its side, 16 x 24 pixels are sent."""
    photograph = PIL.Image.fromarray(np.arange(24 * 16, dtype=np.uint8).reshape(16, 24))
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    photograph.save(file, "PNG", exif=exif)
    with PIL.Image.open(file) as opened:
        sent = pixels_of(to_image(opened))[..., 0]
    stored = np.asarray(photograph)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored.T[:, ::-1],
        7: stored.T[::-1, ::-1],
        8: stored.T[::-1],
    }
    assert np.array_equal(sent, upright[orientation])


def test_a_pil_image_of_the_caller_is_not_changed() -> None:
    image = PIL.Image.new("CMYK", (2, 2))
    image.info["compression"] = "jpeg"
    to_image(image)
    assert image.info == {"compression": "jpeg"} and image.mode == "CMYK"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4), bool),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_that_is_no_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="picture"):
        to_image(array)


@pytest.mark.parametrize("value", ["seven.png", "https://example.com/seven.png", 7, None, [b"x"]])
def test_what_is_no_picture_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="not a picture"):
        to_image(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")])
def test_a_picture_of_no_bytes_is_refused(empty: bytes) -> None:
    with pytest.raises(ValueError):
        to_image(empty)


@pytest.mark.parametrize(
    "fields", [("XYZ", 1, 1, b"1"), ("L", 0, 1, b""), ("L", 2, 2, b"123"), ("RGB", 1, 1, b"1")]
)
def test_pixels_must_fit_their_size(fields: tuple[str, int, int, bytes]) -> None:
    with pytest.raises(ValueError):
        RawPixels(*fields)


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    data = SEVEN.read_bytes()
    assert to_image(SEVEN).source == data
    assert Image.open(str(SEVEN)) == Image.open(SEVEN) == to_image(bytearray(data)) == Image(data)
    with pytest.raises(FileNotFoundError):
        to_image(tmp_path / "missing.png")


def test_what_a_picture_holds_stays_out_of_logs() -> None:
    assert "\\x" not in repr(to_image(SEVEN)) + repr(to_image(np.zeros((64, 64), np.uint8)))


def test_every_form_of_a_picture_gets_the_same_reward(client: RewardClient) -> None:
    with PIL.Image.open(SEVEN) as opened:
        opened.load()
    forms = [SEVEN, SEVEN.read_bytes(), opened, opened.convert("RGB"), np.asarray(opened)]
    rewards = {client.score([form, "What?"], ["7"]).rewards for form in forms}
    assert len(rewards) == 1


def test_every_form_of_a_sixteen_bit_picture_gets_the_same_reward(client: RewardClient) -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    file = io.BytesIO()
    PIL.Image.fromarray(values).save(file, "PNG")
    forms = [file.getvalue(), PIL.Image.fromarray(values)]
    assert len({client.score([form, "What?"], ["7"]).rewards for form in forms}) == 1
