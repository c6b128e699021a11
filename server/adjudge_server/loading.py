"""Builds the critic that a configuration names. Heavy imports happen here, when needed."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from adjudge_server.config import Config
from adjudge_server.critic import Critic
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.families import family_of, is_original
from adjudge_server.hub import fetch, is_hub_id


def load_critic(config: Config) -> Critic[Any]:
    """Raises ValueError for a checkpoint that is not there or not sound."""
    if config.critic == "fake":
        return FakeCritic(name=config.name or "fake", max_input_tokens=config.max_input_tokens)
    directory = directory_of(config)
    try:
        return _load(directory, config)
    except Exception as error:  # a broken file raises whatever its reader raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--model {config.model or directory}: {kind}{error}") from error


def directory_of(config: Config) -> Path:
    """Where the checkpoint lies, downloaded if the model is an id. Raises ValueError."""
    if config.model is None:
        return Path(str(files("adjudge_server") / "embedded"))
    if not is_hub_id(config.model):
        return config.model
    try:
        return fetch(str(config.model))
    except Exception as error:  # a hub fails in the ways of its library
        raise ValueError(f"--model {config.model}: {type(error).__name__}: {error}") from error


def layout_of(directory: Path) -> str:
    """Who wrote a checkpoint, in words."""
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return "original LLaVA-NeXT" if is_original(raw) else "transformers"


def _load(directory: Path, config: Config) -> Critic[Any]:
    if not (directory / "config.json").is_file():
        raise ValueError("no config.json there")
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    family = family_of(raw) if config.critic == "auto" else config.critic
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
