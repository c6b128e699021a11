"""What a Qwen2.5-VL checkpoint may not ask for, and how it wants pictures to be cut."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, Qwen2_5_VLConfig

from adjudge_server.critics import causal_body
from adjudge_server.critics.qwen2_5_vl_patches import Patching
from adjudge_server.text_files import read_json

Raw = Mapping[str, Any]

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""Newer ones have the preprocessor's settings within this file, as `image_processor`."""
VALUE_HEAD = "value_head.safetensors"
COLOURS = 3
AXES = ("time", "height", "width")
_BICUBIC = 3
_COMPUTED: Raw = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "do_center_crop": False,
    "resample": _BICUBIC,
}
"""What `qwen2_5_vl_patches` does to pictures, in the preprocessor's words."""
_PROCESSOR_CLASSES = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")
_CLIP: Raw = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""What the original's preprocessor falls back on."""


def check_raw(directory: Path, raw: Raw) -> None:
    """Raises ValueError for a checkpoint that is another kind of model, and for a config.json that
    transformers would fill up with defaults: those of a model of billions of parameters."""
    if (kind := raw.get("model_type")) != "qwen2_5_vl":
        raise ValueError(f"config.json: model_type is {kind!r}, not 'qwen2_5_vl'")
    if (directory / VALUE_HEAD).is_file():
        raise ValueError(
            f"{VALUE_HEAD}: this model answers by a value head, as Skywork-VL-Reward does, which is"
            " not implemented here"
        )
    if not isinstance(raw.get("vision_config"), dict) or not raw["vision_config"]:
        raise ValueError("config.json: missing vision_config")
    # Published ones have the decoder's keys at the top, newer ones a part of their own.
    text = raw.get("text_config") or raw
    if not isinstance(text, dict) or "hidden_size" not in text:
        raise ValueError("config.json: missing text_config, or hidden_size without one")


def check_config(config: Qwen2_5_VLConfig) -> None:
    """Raises ValueError, naming the key, for what is not computed here."""
    causal_body.check_keys(vars(config.text_config), "text_config.")
    _check_sections(config.text_config)
    vision = config.vision_config
    for key, value in {"in_channels": COLOURS, "model_type": "qwen2_5_vl_vision"}.items():
        if (found := getattr(vision, key)) != value:
            raise ValueError(
                f"config.json: vision_config.{key} is {found!r}, only {value!r} is implemented"
            )
    for key in ("patch_size", "spatial_merge_size", "temporal_patch_size", "window_size"):
        found = getattr(vision, key)
        if not isinstance(found, int) or found < 1:
            raise ValueError(f"config.json: vision_config.{key} is {found!r}, not a number")
    step = vision.patch_size * vision.spatial_merge_size
    if vision.window_size < step:
        raise ValueError(
            f"config.json: vision_config.window_size is {vision.window_size}, less than a feature's"
            f" side, {step} pixels"
        )
    if vision.out_hidden_size != config.text_config.hidden_size:
        raise ValueError(
            f"config.json: vision_config.out_hidden_size is {vision.out_hidden_size}, the decoder's"
            f" hidden_size {config.text_config.hidden_size}"
        )


def _check_sections(text: PretrainedConfig) -> None:
    """Raises ValueError where the parts of a head that turn with time, height and width do not make
    up its half: transformers falls back on those of heads of 128."""
    sections = text.rope_parameters.get("mrope_section")
    half = text.hidden_size // text.num_attention_heads // 2
    is_sound = isinstance(sections, list) and all(isinstance(part, int) for part in sections)
    if not is_sound or len(sections) != len(AXES) or sum(sections) != half:
        raise ValueError(
            f"config.json: text_config.rope_parameters.mrope_section is {sections!r}, not three"
            f" parts of {half}"
        )


def read_patching(directory: Path, config: Qwen2_5_VLConfig) -> Patching | None:
    """How pictures are cut; None where no file says it. Raises ValueError, naming file and key, for
    preprocessing that is not done here."""
    processor = read_json(directory / PROCESSOR)
    nested = processor.get("image_processor") or {}
    if not isinstance(nested, dict):
        raise ValueError(f"{PROCESSOR}: image_processor is {nested!r}, not settings")
    settings = read_json(directory / PREPROCESSOR)
    file = PREPROCESSOR if settings else f"{PROCESSOR}: image_processor"
    differing = [key for key in settings.keys() & nested.keys() if settings[key] != nested[key]]
    if differing := [key for key in differing if key != "image_processor_type"]:
        raise ValueError(
            f"{PREPROCESSOR}: {min(differing)} differs from what {PROCESSOR} says: which is it?"
        )
    settings = {**nested, **settings}
    if not settings:
        return None
    _check_settings(file, settings, config)
    smallest, largest = _area(file, settings)
    return Patching(
        patch=config.vision_config.patch_size,
        merge=config.vision_config.spatial_merge_size,
        min_pixels=smallest,
        max_pixels=largest,
        mean=_colours(file, settings, "image_mean"),
        std=_colours(file, settings, "image_std"),
    )


def _check_settings(file: str, settings: Raw, config: Qwen2_5_VLConfig) -> None:
    kind = settings.get("image_processor_type") or _PROCESSOR_CLASSES[0]
    if not str(kind).startswith(_PROCESSOR_CLASSES):  # there are faster ones of the same name
        raise ValueError(f"{file}: image_processor_type is {kind!r}, which is not implemented")
    vision = config.vision_config
    wanted = {
        **_COMPUTED,
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    for key, value in wanted.items():
        if (found := settings.get(key)) is not None and found != value:
            raise ValueError(f"{file}: {key} is {found!r}, only {value!r} is implemented")
    scale = settings.get("rescale_factor")
    if scale is not None and not (isinstance(scale, float) and abs(scale * 255 - 1) < 1e-6):
        raise ValueError(f"{file}: rescale_factor is {scale!r}, only 1/255 is implemented")


def _area(file: str, settings: Raw) -> tuple[int, int]:
    """The smallest and largest area of a picture, in pixels, of the ways in which they are
    written. Raises ValueError where they are not: transformers' own defaults are not those of any
    published model."""
    size = settings.get("size") or {}
    if not isinstance(size, dict):
        raise ValueError(f"{file}: size is {size!r}, not limits in pixels")
    found: list[int] = []
    for key, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        limits = (settings.get(key), size.get(edge), size.get(key))
        limit = next((limit for limit in limits if limit is not None), None)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ValueError(f"{file}: {key} is {limit!r}, not a number of pixels")
        found.append(limit)
    if found[0] > found[1]:
        raise ValueError(f"{file}: min_pixels is {found[0]}, more than max_pixels, {found[1]}")
    return found[0], found[1]


def _colours(file: str, settings: Raw, key: str) -> tuple[float, ...]:
    values = settings.get(key, _CLIP[key])
    is_sound = isinstance(values, list) and len(values) == COLOURS
    if not is_sound or not all(_is_share(value, key == "image_std") for value in values):
        raise ValueError(f"{file}: {key} is {values!r}, not a number for each colour")
    return tuple(map(float, values))


def _is_share(value: object, is_divisor: bool) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        return False
    return value > 0 or not is_divisor
