"""Builds the critic that a configuration names. Heavy imports happen here, when needed."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from adjudge_server.access.reloading import read_secret
from adjudge_server.caches import CacheBytes
from adjudge_server.config import Config
from adjudge_server.critic import Critic
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.families import check_chosen, family_of, is_original
from adjudge_server.hub import fetch, is_hub_id, why_no_id
from adjudge_server.template_sets import AUTO, choose_templates, read_own_templates
from adjudge_server.templates import Template

FAKE_SECONDS_PER_TOKEN = "ADJUDGE_FAKE_SECONDS_PER_TOKEN"
"""Environment variable: how long the fake critic sleeps, so that a load behaves as with a model."""


def load_critic(config: Config) -> Critic[Any]:
    """Raises ValueError for a checkpoint that is not there or not sound."""
    own = read_own_templates(config.templates) if config.templates else ()
    if config.critic == "fake":
        return FakeCritic(
            name=config.name or "fake",
            max_input_tokens=config.max_input_tokens,
            templates=choose_templates(config.template_set, ["fake"], own),
            seconds_per_token=float(os.environ.get(FAKE_SECONDS_PER_TOKEN, "0")),
        )
    directory = directory_of(config)
    try:
        return _load(directory, config, own)
    except Exception as error:  # a broken file raises whatever its reader raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        told = " ".join(f"{kind}{error}".split())  # libraries write paragraphs
        raise ValueError(f"--model {config.model or directory}: {told}") from error


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
    from adjudge_server.critics import checkpoint

    raw = checkpoint.read_json(directory / "config.json")
    return "original LLaVA-NeXT" if is_original(raw) else "transformers"


def _load(directory: Path, config: Config, own: Sequence[Template]) -> Critic[Any]:
    if not (directory / "config.json").is_file():
        raise ValueError(f"no config.json there{why_no_id(directory)}")
    from adjudge_server.critics import checkpoint

    raw = checkpoint.read_json(directory / "config.json")
    family = family_of(raw) if config.critic == "auto" else config.critic
    check_chosen(family, raw)
    if family != "llava_onevision" and config.vision_heads is not None:
        raise ValueError("--vision-heads is for LLaVA-OneVision")
    if family == "qwen2_5_vl" and config.several_pictures != "anyres":
        raise ValueError("--several-pictures is for LLaVA-OneVision")
    if config.engine != "in-process":
        return _load_remote(directory, raw, family, config, own)
    checkpoint.set_threads(config.threads)
    load = partial(
        _loader(family),
        directory,
        name=config.name or (config.model or directory).name,
        device=checkpoint.pick_device(config.device),
        dtype=config.dtype,
        max_input_tokens=config.max_input_tokens,
        caches=CacheBytes(config.max_prefix_bytes, config.max_feature_bytes),
    )
    if family == "sequence_classification":
        if own:
            raise ValueError("a model with a scalar head is not asked with --templates")
        if config.template_set != AUTO:
            raise ValueError("a model with a scalar head is not asked with a --template-set")
        return load()
    templates = choose_templates(config.template_set, _names(directory, raw, config), own)
    load = partial(load, templates=templates, repetition_penalty=config.repetition_penalty)
    if family != "llava_onevision":
        return load()
    return load(several_pictures=config.several_pictures, vision_heads=config.vision_heads)


def _load_remote(
    directory: Path, raw: dict[str, Any], family: str, config: Config, own: Sequence[Template]
) -> Critic[Any]:
    try:
        from adjudge_server.critics.vllm import engine, loading
    except ModuleNotFoundError as error:
        raise ValueError(f"--engine {config.engine} needs adjudge[vllm] ({error})") from error
    assert config.engine_url is not None
    key = _key(config.engine_key) if config.engine_key else None
    model = config.model or directory
    return loading.load(
        directory,
        engine.Address(
            config.engine_url,
            model=config.engine_model,
            key=key,
            timeout_seconds=config.engine_timeout_seconds,
            concurrency=config.engine_concurrency,
            start_seconds=config.engine_start_seconds,
        ),
        family=family,
        name=config.name or model.name,
        model=str(model),
        max_input_tokens=config.max_input_tokens,
        templates=choose_templates(config.template_set, _names(directory, raw, config), own),
        vision_heads=config.vision_heads,
        repetition_penalty=config.repetition_penalty,
    )


def _key(path: Path) -> str:
    """Raises ValueError for a file that is not there, open to every user, or holds no key."""
    try:
        key = read_secret(path, "--engine-key").decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"--engine-key {path}: not UTF-8") from None
    if not key:
        raise ValueError(f"--engine-key {path}: holds no key")
    return key


def _loader(family: str) -> Callable[..., Critic[Any]]:
    name = "llava" if family == "llava_onevision" else family
    module = import_module(f"adjudge_server.critics.{name}_loading")
    loader: Callable[..., Critic[Any]] = module.load
    return loader


def _names(directory: Path, raw: dict[str, Any], config: Config) -> list[str]:
    """What a model goes by, without the folders or the organisation that it lies in."""
    called = (directory, config.model or "", raw.get("_name_or_path") or "")
    return [Path(name).name for name in called]
