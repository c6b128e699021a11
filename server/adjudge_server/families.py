"""Which code loads a checkpoint, by its `config.json`."""

from collections.abc import Mapping
from typing import Any

from adjudge_server.misconfigured import Misconfigured

Raw = Mapping[str, Any]

FAMILIES = ("llava_onevision", "qwen2_5_vl", "causal_lm", "sequence_classification")
_SEEING = {"llava_onevision": "LLaVA-OneVision", "qwen2_5_vl": "Qwen2.5-VL"}
_BY_CLASS = {
    "ForCausalLM": "causal_lm",
    "ForSequenceClassification": "sequence_classification",
}


def is_original(raw: Raw) -> bool:
    """Whether LLaVA-NeXT's own code wrote it, whose `llava` is not that of transformers."""
    return "mm_vision_tower" in raw or "LlavaQwenForCausalLM" in _architectures(raw)


def _architectures(raw: Raw) -> list[str]:
    names = raw.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"config.json: architectures is {names!r}, not a list of names")
    return names


def check_chosen(family: str, raw: Raw) -> None:
    """Raises Misconfigured, saying what it is, where a checkpoint is not of the family that a user
    chose; what only its tensors can tell is left to them."""
    kind = str(raw.get("model_type"))
    is_llava = is_original(raw) or kind.startswith("llava")
    found = "llava_onevision" if is_llava else kind if kind in _SEEING else None
    if found == (family if family in _SEEING else None):
        return
    told = ", ".join(_architectures(raw)) or f"model_type {kind}"
    if found is None:
        kind = f"no {_SEEING[family]}"
    else:
        kind = f"a {'LLaVA' if is_llava else _SEEING[found]}, which sees pictures"
    raise Misconfigured(f"--critic {family}: this is {kind}; config.json says {told}")


def family_of(raw: Raw) -> str:
    """Raises Misconfigured, with the reason, where no family here loads it."""
    architectures = _architectures(raw) or [f"model_type {raw.get('model_type')}"]
    if is_original(raw) or raw.get("model_type") == "llava_onevision":
        return "llava_onevision"
    if raw.get("model_type") == "qwen2_5_vl":
        return "qwen2_5_vl"
    if raw.get("model_type") == "llava":
        tokens = raw.get("image_seq_length", "a fixed number of")
        raise Misconfigured(
            f"config.json: this is a plain LLaVA, which sees one square of {tokens} tokens and no"
            " tiles. A LLaVA-Critic converted to it judges other pictures than it was trained on;"
            " load it as it was published, or converted to llava_onevision"
        )
    for ending, family in _BY_CLASS.items():
        if any(name.endswith(ending) for name in architectures):
            return family
    raise Misconfigured(f"config.json: no family here loads {', '.join(architectures)}")
