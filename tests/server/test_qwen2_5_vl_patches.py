"""Preprocessing of Qwen2.5-VL: the numbers of transformers' own image processor, without it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from adjudge_server.critics.qwen2_5_vl_patches import Grid, Patching, fitted, patched, patches
from adjudge_server.errors import UnsupportedContent
from adjudge_server.images import Picture

PUBLISHED = Patching(
    patch=14,
    merge=2,
    min_pixels=3136,
    max_pixels=12_845_056,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)

sizes = st.tuples(st.integers(1, 700), st.integers(1, 700)).filter(lambda s: max(s) <= 200 * min(s))
limits = st.tuples(st.integers(1, 40), st.integers(0, 400)).map(
    lambda limit: (784 * limit[0], 784 * (limit[0] + limit[1]))
)


def picture(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels), np.uint8)
    return Image.fromarray(pixels)


def theirs(image: Image.Image, patching: Patching) -> Any:
    processor = Qwen2VLImageProcessorPil(
        min_pixels=patching.min_pixels,
        max_pixels=patching.max_pixels,
        patch_size=patching.patch,
        merge_size=patching.merge,
        temporal_patch_size=2,
        image_mean=list(patching.mean),
        image_std=list(patching.std),
    )
    return processor([image], return_tensors="np")


def assert_equal_to_theirs(image: Image.Image, patching: Patching) -> None:
    expected = theirs(image, patching)
    cut = patched(Picture(image, "digest"), patching)
    frames = np.repeat(cut.cut()[:, :, None], 2, axis=2)
    assert np.array_equal(frames.reshape(len(frames), -1), expected["pixel_values"])
    down, across = (side * patching.merge for side in (cut.layout.down, cut.layout.across))
    assert expected["image_grid_thw"].tolist() == [[1, down, across]]


@settings(max_examples=150, deadline=None)
@given(size=sizes, limit=limits, seed=st.integers(0, 3), merge=st.sampled_from([1, 2]))
def test_patches_are_those_of_transformers_to_the_last_bit(
    size: tuple[int, int], limit: tuple[int, int], seed: int, merge: int
) -> None:
    patching = Patching(14, merge, *limit, PUBLISHED.mean, PUBLISHED.std)
    assert_equal_to_theirs(picture("RGB", size, seed), patching)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pictures_of_other_modes_too_transparent_ones_on_white(mode: str) -> None:
    assert_equal_to_theirs(picture(mode, (90, 61)), PUBLISHED)


@settings(max_examples=2000, deadline=None)
@given(size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)), limit=limits)
def test_sizes_are_those_of_transformers(size: tuple[int, int], limit: tuple[int, int]) -> None:
    patching = Patching(14, 2, *limit, PUBLISHED.mean, PUBLISHED.std)
    width, height = size
    if max(size) > 200 * min(size):
        with pytest.raises(UnsupportedContent, match="200 times"):
            fitted(size, patching)
        return
    expected = smart_resize(height, width, 28, *limit)
    assert fitted(size, patching) == expected[::-1]


@settings(max_examples=500, deadline=None)
@given(size=st.tuples(st.integers(14, 3000), st.integers(14, 3000)))
def test_a_picture_has_about_as_many_features_as_its_area_says(size: tuple[int, int]) -> None:
    if max(size) > 200 * min(size):
        return
    width, height = fitted(size, PUBLISHED)
    assert width % 28 == height % 28 == 0
    assert width * height <= PUBLISHED.max_pixels
    assert width * height >= PUBLISHED.min_pixels
    cut = patched(Picture(Image.new("RGB", size), "digest"), PUBLISHED)
    assert cut.layout.num_tokens == width * height // 784


def test_a_picture_that_is_too_long_is_refused_by_its_size() -> None:
    with pytest.raises(UnsupportedContent, match="200 times") as caught:
        patches(Image.new("RGB", (2010, 10)), PUBLISHED)
    assert caught.value.metadata == {"field": "prompt", "width": "2010", "height": "10"}


@given(across=st.integers(1, 30), down=st.integers(1, 30))
def test_features_of_a_grid_stand_side_by_side(across: int, down: int) -> None:
    grid = Grid(across, down)
    assert grid.offsets.shape == (3, grid.num_tokens)
    time, height, width = grid.offsets.tolist()
    assert set(time) == {0}
    assert list(zip(height, width, strict=True)) == [
        (y, x) for y in range(down) for x in range(across)
    ]
    assert grid.num_positions == grid.offsets.max() + 1
