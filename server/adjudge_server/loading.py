"""Builds the critic that a configuration names. Heavy imports happen here, when needed."""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from adjudge_server.access.reloading import read_secret
from adjudge_server.caches import CacheBytes
from adjudge_server.config import Config
from adjudge_server.critic import Critic
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.families import is_original
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.planning import Plan, about_model, plan
from adjudge_server.text_files import read_json

FAKE_SECONDS_PER_TOKEN = "ADJUDGE_FAKE_SECONDS_PER_TOKEN"
"""Environment variable: how long the fake critic sleeps, so that a load behaves as with a model."""


def load_critic(config: Config) -> Critic[Any]:
    """Raises ValueError for a checkpoint that is not there or not sound, and Misconfigured as
    `plan` does."""
    return load_planned(plan(config))


def load_planned(plan: Plan) -> Critic[Any]:
    """Raises ValueError for a checkpoint that is not sound, Misconfigured for what does not run
    here."""
    config = plan.config
    if plan.family == "fake":
        return FakeCritic(
            name=config.name or "fake",
            max_input_tokens=config.max_input_tokens,
            templates=plan.templates,
            seconds_per_token=float(os.environ.get(FAKE_SECONDS_PER_TOKEN, "0")),
        )
    device = _device(config)
    with about_model(config, plan.directory):
        return _load_remote(plan) if config.engine != "in-process" else _load(plan, device)


def layout_of(directory: Path) -> str:
    """Who wrote a checkpoint, in words."""
    raw = read_json(directory / "config.json")
    return "original LLaVA-NeXT" if is_original(raw) else "transformers"


def _device(config: Config) -> str:
    """Raises ValueError, naming the flag."""
    if config.engine != "in-process":
        return ""
    from adjudge_server.critics.device import pick_device

    return pick_device(config.device)


def _load(plan: Plan, device: str) -> Critic[Any]:
    from adjudge_server.critics import checkpoint

    config, directory = plan.config, plan.directory
    checkpoint.set_threads(config.threads)
    load = partial(
        _loader(plan.family),
        directory,
        name=_name(plan),
        device=device,
        dtype=config.dtype,
        max_input_tokens=config.max_input_tokens,
        caches=CacheBytes(config.max_prefix_bytes, config.max_feature_bytes),
    )
    if plan.family == "sequence_classification":
        return load()
    load = partial(load, templates=plan.templates, repetition_penalty=config.repetition_penalty)
    if plan.family != "llava_onevision":
        return load()
    return load(several_pictures=config.several_pictures, vision_heads=config.vision_heads)


def _load_remote(plan: Plan) -> Critic[Any]:
    config = plan.config
    try:
        from adjudge_server.critics.vllm import engine, loading
    except ModuleNotFoundError as error:
        raise Misconfigured(f"--engine {config.engine} needs adjudge[vllm] ({error})") from error
    assert config.engine_url is not None
    key = _key(config.engine_key) if config.engine_key else None
    return loading.load(
        plan.directory,
        engine.Address(
            config.engine_url,
            model=config.engine_model,
            key=key,
            timeout_seconds=config.engine_timeout_seconds,
            concurrency=config.engine_concurrency,
            start_seconds=config.engine_start_seconds,
        ),
        family=plan.family,
        name=_name(plan),
        model=str(config.model or plan.directory),
        max_input_tokens=config.max_input_tokens,
        templates=plan.templates,
        vision_heads=config.vision_heads,
        repetition_penalty=config.repetition_penalty,
    )


def _name(plan: Plan) -> str:
    return plan.config.name or (plan.config.model or plan.directory).name


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
