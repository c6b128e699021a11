"""What a LLaVA-OneVision checkpoint in the layout of transformers may not ask for: its files say
more than this code computes, and nothing of that may pass without a word."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig

from adjudge_server.critics import causal_body
from adjudge_server.text_files import read_json

Raw = Mapping[str, Any]

MOST_GRIDS = 1024
"""The published ones have 36. Every picture is tried on all of them."""
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""Newer ones have the preprocessor's settings within this file, as `image_processor`."""
_BICUBIC = 3
_COMPUTED: Raw = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": True,
    "do_convert_rgb": True,
    "do_center_crop": False,
    "resample": _BICUBIC,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""What `anyres` does to pictures, in the preprocessor's words. SigLIP's."""
_PROCESSOR_CLASS = "LlavaOnevisionImageProcessor"


def check_raw(raw: Raw) -> None:
    """Raises ValueError for a config.json that transformers would fill up with defaults: those of a
    model of billions of parameters."""
    if (kind := raw.get("model_type")) != "llava_onevision":
        raise ValueError(f"config.json: model_type is {kind!r}, not 'llava_onevision'")
    for part in ("text_config", "vision_config"):
        if not isinstance(raw.get(part), dict) or not raw[part]:
            raise ValueError(f"config.json: missing {part}")


def check_config(config: LlavaOnevisionConfig) -> None:
    """Raises ValueError, naming the key, for what is not computed here."""
    for key, value in {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }.items():
        if (found := getattr(config, key)) != value:
            raise ValueError(f"config.json: {key} is {found!r}, only {value!r} is implemented")
    if (tower := config.vision_config.model_type) != "siglip_vision_model":
        raise ValueError(f"config.json: vision_config.model_type is {tower!r}, not SigLIP's")
    causal_body.check_keys(vars(config.text_config), "text_config.")
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    if not 0 < patch <= size:
        raise ValueError(
            f"config.json: vision_config.image_size is {size}, of which patches of {patch} pixels"
            " see nothing"
        )
    check_grids(config.image_grid_pinpoints, size)


def check_grids(grids: object, tile: int) -> None:
    """Raises ValueError where they are not resolutions that tiles of this side make up."""
    if not isinstance(grids, list) or not 0 < len(grids) <= MOST_GRIDS:
        told = f"{len(grids)} resolutions" if isinstance(grids, list) else repr(grids)
        raise ValueError(
            f"config.json: image_grid_pinpoints is {told}, not a list of 1 to {MOST_GRIDS}"
        )
    for grid in grids:
        is_pair = isinstance(grid, list | tuple) and len(grid) == 2
        if not is_pair or not all(_is_multiple(side, tile) for side in grid):
            raise ValueError(
                f"config.json: image_grid_pinpoints has {grid!r}, which is not a pair of multiples"
                f" of the tile, {tile} pixels"
            )


def _is_multiple(side: object, tile: int) -> bool:
    return isinstance(side, int) and side > 0 and side % tile == 0


def aspect_ratio_tiles(value: object) -> int | None:
    """Of "anyres_max_N", the tiles beyond which a grid is shrunk; None of "pad". Raises ValueError
    for others."""
    if value == "pad":
        return None
    named = re.fullmatch(r"anyres_max_([1-9][0-9]*)", str(value))
    if named is None:
        raise ValueError(
            f"config.json: vision_aspect_ratio (image_aspect_ratio in original ones) is {value!r},"
            " only anyres_max_N and pad are implemented"
        )
    return int(named[1])


def check_preprocessor(directory: Path, config: LlavaOnevisionConfig) -> None:
    """Raises ValueError, naming file and key, for preprocessing that is not done here. A checkpoint
    need not say how pictures are prepared."""
    processor = read_json(directory / PROCESSOR)
    for key in ("vision_aspect_ratio", "vision_feature_select_strategy"):
        _check_equal(PROCESSOR, key, processor, getattr(config, key))
    _check_settings(PREPROCESSOR, read_json(directory / PREPROCESSOR), config)
    nested = processor.get("image_processor") or {}
    if not isinstance(nested, dict):
        raise ValueError(f"{PROCESSOR}: image_processor is {nested!r}, not settings")
    _check_settings(f"{PROCESSOR}: image_processor", nested, config)


def _check_settings(file: str, settings: Raw, config: LlavaOnevisionConfig) -> None:
    kind = settings.get("image_processor_type") or _PROCESSOR_CLASS
    if not str(kind).startswith(_PROCESSOR_CLASS):  # it has faster ones of the same name
        raise ValueError(f"{file}: image_processor_type is {kind!r}, which is not implemented")
    for key, value in _COMPUTED.items():
        _check_equal(file, key, settings, value)
    _check_equal(file, "image_grid_pinpoints", settings, _lists(config.image_grid_pinpoints))
    scale = settings.get("rescale_factor")
    if scale is not None and not (isinstance(scale, float) and abs(scale * 255 - 1) < 1e-6):
        raise ValueError(f"{file}: rescale_factor is {scale!r}, only 1/255 is implemented")
    side = config.vision_config.image_size
    size = settings.get("size")
    if size not in (
        None,
        side,
        {"height": side, "width": side},
        {"shortest_edge": side},
        [side, side],
    ):
        raise ValueError(f"{file}: size is {size!r}, the tower's pictures are {side} pixels wide")


def _check_equal(file: str, key: str, settings: Raw, value: object) -> None:
    if (found := settings.get(key)) is not None and found != value:
        raise ValueError(f"{file}: {key} is {found!r}, only {value!r} is implemented")


def _lists(grids: list[Any]) -> list[list[int]]:
    return [list(grid) for grid in grids]
