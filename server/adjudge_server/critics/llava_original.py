"""The original LLaVA-NeXT layout (`LlavaQwenForCausalLM`), in transformers' terms.

That is how `lmms-lab/llava-critic-7b` and the LLaVA-OneVision models are published. Its config says
nothing about the vision tower but a name, so the tower's sizes are read off the weights' shapes.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

from adjudge_server.critics import causal_body, llava_checks
from adjudge_server.critics.checkpoint import Shapes
from adjudge_server.misconfigured import Misconfigured

Raw = Mapping[str, Any]

TOWER = "model.vision_tower.vision_tower.vision_model."
KEY_MAPPING = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.(layers|norm|embed_tokens)\.": r"model.language_model.\1.",
}
"""Names of tensors, from the original's to transformers' 5."""
_SIGLIP_HEADS = {768: 12, 1024: 16, 1152: 16}
"""Attention heads by width, for the published SigLIP towers: no shape tells them."""
_IMPLEMENTED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "one_token",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "mm_resampler_type": None,
    "rope_scaling": None,
}
_TEXT = (
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_REQUIRED = (*_TEXT, "rope_theta", "image_aspect_ratio")
"""What no weight tells."""
_OPTIONAL = ("hidden_act", "tie_word_embeddings", "bos_token_id", "eos_token_id")


def to_config(raw: Raw, shapes: Shapes, vision_heads: int | None = None) -> LlavaOnevisionConfig:
    """transformers' config of an original checkpoint.

    `vision_heads` is for towers that are none of the published SigLIP ones. Raises ValueError for
    what this code does not compute, and for shapes that fit no tower.
    """
    _check(raw)
    vision = _vision(raw, shapes, vision_heads)
    text = _text(raw, shapes)
    return LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=raw.get("image_token_index", text.vocab_size),
        video_token_index=text.vocab_size,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=raw["image_aspect_ratio"],
        # Width before height in the original, height before width in transformers.
        image_grid_pinpoints=[[h, w] for w, h in _grids(raw, vision.image_size)],
        tie_word_embeddings=text.tie_word_embeddings,
    )


def _check(raw: Raw) -> None:
    for name, value in _IMPLEMENTED.items():
        if (found := raw.get(name, value)) != value:
            raise ValueError(f"config.json: {name} is {found!r}, only {value!r} is implemented")
    if raw.get("is_rm"):
        raise ValueError("config.json: is_rm is true: a reward head is not implemented")
    if missing := [name for name in _REQUIRED if raw.get(name) is None]:
        raise ValueError(f"config.json: missing {', '.join(missing)}")
    plain = {"rope_type": "default", "rope_theta": raw["rope_theta"]}
    rope = raw.get("rope_parameters") or {}  # which the original's transformers did not have
    if not isinstance(rope, dict) or plain | rope != plain:
        raise ValueError(f"config.json: rope_parameters is {rope!r}, only {plain} is implemented")
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    causal_body.check_keys({**raw, "rope_parameters": plain, "sliding_window": window})


def _text(raw: Raw, shapes: Shapes) -> Qwen2Config:
    # The original resizes it to its tokenizer, and the configuration does not always follow.
    vocabulary, hidden = _shape(shapes, "model.embed_tokens.weight")
    inferred = {
        "hidden_size": hidden,
        "intermediate_size": _shape(shapes, "model.layers.0.mlp.up_proj.weight")[0],
        "num_hidden_layers": _count_layers(shapes, "model."),
    }
    told = {name: raw[name] for name in (*_TEXT, *_OPTIONAL, *inferred) if name in raw}
    return Qwen2Config(
        **inferred | told,  # as told where it is, so that a layer that is not there is missed
        vocab_size=vocabulary,
        rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
    )


def _count_layers(shapes: Shapes, prefix: str) -> int:
    found = [re.match(rf"{re.escape(prefix)}layers\.(\d+)\.", name) for name in shapes]
    return 1 + max((int(m[1]) for m in found if m), default=-1)


def _vision(raw: Raw, shapes: Shapes, heads: int | None) -> SiglipVisionConfig:
    hidden, _, patch, _ = _shape(shapes, f"{TOWER}embeddings.patch_embedding.weight")
    positions, _ = _shape(shapes, f"{TOWER}embeddings.position_embedding.weight")
    intermediate, _ = _shape(shapes, f"{TOWER}encoder.layers.0.mlp.fc1.weight")
    side = round(positions**0.5)
    if side**2 != positions:
        raise ValueError(f"checkpoint: {positions} patch positions are no square")
    heads = heads or _SIGLIP_HEADS.get(hidden)
    if heads is None:
        raise Misconfigured(
            f"checkpoint: a vision tower {hidden} wide is none of the published ones;"
            " say how many attention heads it has (--vision-heads)"
        )
    return SiglipVisionConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=_count_layers(shapes, f"{TOWER}encoder."),
        num_attention_heads=heads,
        image_size=_image_size(raw, side, patch),
        patch_size=patch,
        vision_use_head=False,
    )


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"checkpoint: missing keys: {name}")
    return shapes[name]


def _image_size(raw: Raw, side: int, patch: int) -> int:
    """Pixels along a side of the tower's picture, which may be more than its patches cover."""
    named = re.search(r"-(\d+)$", str(raw.get("mm_vision_tower", "")))
    grids = raw.get("image_grid_pinpoints")
    if isinstance(grids, list):
        llava_checks.check_grids(grids, 1)
        size = min(int(min(grid)) for grid in grids)
    else:
        size = int(named[1]) if named else side * patch
    if size // patch != side:
        raise ValueError(
            f"a vision tower of {side}x{side} patches of {patch} pixels does not see {size} pixels"
        )
    return size


def _grids(raw: Raw, tile: int) -> list[tuple[int, int]]:
    """Resolutions (width, height), written out or as a range of tiles: "(1x1),...,(6x6)"."""
    grids = raw.get("image_grid_pinpoints")
    if grids is None and raw["image_aspect_ratio"] == "pad":
        return [(tile, tile)]
    if grids is None:
        raise ValueError("config.json: missing image_grid_pinpoints")
    if isinstance(grids, str):
        grids = _range(grids, tile)
    llava_checks.check_grids(grids, tile)
    return [(width, height) for width, height in grids]


def _range(grids: str, tile: int) -> list[tuple[int, int]]:
    corners = [tuple(map(int, pair)) for pair in re.findall(r"\((\d+)x(\d+)\)", grids)]
    if len(corners) < 2:
        raise ValueError(f"config.json: image_grid_pinpoints {grids!r} is no range")
    (left, top), (right, bottom) = corners[0], corners[-1]
    if (right - left + 1) * (bottom - top + 1) > llava_checks.MOST_GRIDS:
        raise ValueError(f"config.json: image_grid_pinpoints {grids!r} are too many")
    return [
        (across * tile, down * tile)
        for across in range(left, right + 1)
        for down in range(top, bottom + 1)
    ]
