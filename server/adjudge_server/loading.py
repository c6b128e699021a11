"""Builds the critic that a configuration names. Heavy imports happen here, when needed."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from adjudge_server.config import Config
from adjudge_server.critic import Critic
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.hub import fetch, is_hub_id


def load_critic(config: Config) -> Critic[Any]:
    """Raises ValueError for a checkpoint that is not there or not sound."""
    if config.critic == "fake":
        return FakeCritic(name=config.name or "fake", max_input_tokens=config.max_input_tokens)
    directory = config.model or Path(str(files("adjudge_server") / "embedded"))
    try:
        if is_hub_id(directory):
            directory = fetch(str(directory))
        return _load(directory, config)
    except Exception as error:  # a broken file raises whatever its reader raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--model {config.model or directory}: {kind}{error}") from error


def _load(directory: Path, config: Config) -> Critic[Any]:
    if not (directory / "config.json").is_file():
        raise ValueError("no config.json there")
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    family = _family(raw) if config.critic == "auto" else config.critic
    from adjudge_server.critics import checkpoint, llava_loading

    checkpoint.set_threads(config.threads)
    assert family == "llava_onevision"
    return llava_loading.load(
        directory,
        name=config.name or directory.name,
        device=checkpoint.pick_device() if config.device == "auto" else config.device,
        dtype=config.dtype,
        max_input_tokens=config.max_input_tokens,
        several_pictures=config.several_pictures,
        vision_heads=config.vision_heads,
        repetition_penalty=config.repetition_penalty,
    )


def _family(raw: dict[str, Any]) -> str:
    """The family that can load a checkpoint, by its configuration. Raises ValueError."""
    architectures = raw.get("architectures") or [f"model_type {raw.get('model_type')}"]
    if "mm_vision_tower" in raw or "LlavaQwenForCausalLM" in architectures:
        return "llava_onevision"
    if raw.get("model_type") == "llava_onevision":
        return "llava_onevision"
    if raw.get("model_type") == "llava":
        tokens = raw.get("image_seq_length", "a fixed number of")
        raise ValueError(
            f"config.json: this is a plain LLaVA, which sees one square of {tokens} tokens and no"
            " tiles. A LLaVA-Critic converted to it judges other pictures than it was trained on;"
            " load it as it was published, or converted to llava_onevision"
        )
    raise ValueError(f"config.json: no family here loads {', '.join(architectures)}")
