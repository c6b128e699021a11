"""Builds the critic that a configuration names. Heavy imports happen here, when needed."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from adjudge_server.config import Config
from adjudge_server.critic import Critic
from adjudge_server.critics.fake import FakeCritic


def load_critic(config: Config) -> Critic[Any]:
    """Raises ValueError for a checkpoint that is not there or not sound."""
    if config.critic == "fake":
        return FakeCritic(name=config.name or "fake", max_input_tokens=config.max_input_tokens)
    directory = config.model or Path(str(files("adjudge_server") / "embedded"))
    if not (directory / "config.json").is_file():
        raise ValueError(f"--model {directory}: no config.json there")
    from adjudge_server.critics import llava_loading

    llava_loading.set_threads(config.threads)
    try:
        return llava_loading.load(
            directory,
            name=config.name or directory.name,
            device=llava_loading.pick_device() if config.device == "auto" else config.device,
            dtype=config.dtype,
            max_input_tokens=config.max_input_tokens,
        )
    except Exception as error:  # a broken file raises whatever its reader raises
        raise ValueError(f"--model {directory}: {type(error).__name__}: {error}") from error
