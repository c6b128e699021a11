"""Which code loads a checkpoint, by its `config.json`."""

from collections.abc import Mapping
from typing import Any

Raw = Mapping[str, Any]

FAMILIES = ("llava_onevision", "causal_lm", "sequence_classification")
_BY_CLASS = {
    "ForCausalLM": "causal_lm",
    "ForSequenceClassification": "sequence_classification",
}


def is_original(raw: Raw) -> bool:
    """Whether LLaVA-NeXT's own code wrote it, whose `llava` is not that of transformers."""
    return "mm_vision_tower" in raw or "LlavaQwenForCausalLM" in (raw.get("architectures") or ())


def family_of(raw: Raw) -> str:
    """Raises ValueError, with the reason, where no family here loads it."""
    architectures = raw.get("architectures") or [f"model_type {raw.get('model_type')}"]
    if is_original(raw) or raw.get("model_type") == "llava_onevision":
        return "llava_onevision"
    if raw.get("model_type") == "llava":
        tokens = raw.get("image_seq_length", "a fixed number of")
        raise ValueError(
            f"config.json: this is a plain LLaVA, which sees one square of {tokens} tokens and no"
            " tiles. A LLaVA-Critic converted to it judges other pictures than it was trained on;"
            " load it as it was published, or converted to llava_onevision"
        )
    for ending, family in _BY_CLASS.items():
        if any(str(name).endswith(ending) for name in architectures):
            return family
    raise ValueError(f"config.json: no family here loads {', '.join(architectures)}")
