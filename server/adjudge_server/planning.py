"""What is known of a critic before its weights are read: where it lies, which family loads it, and
what it is asked with. Torch is not imported for that, so that a mistake is told at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from adjudge_server.config import Config
from adjudge_server.families import check_chosen, family_of
from adjudge_server.hub import fetch, is_hub_id, why_no_id
from adjudge_server.misconfigured import Misconfigured, about
from adjudge_server.template_sets import AUTO, CONVERSATION, choose_templates, read_own_templates
from adjudge_server.templates import Template
from adjudge_server.text_files import read_json


@dataclass(frozen=True, slots=True)
class Plan:
    """How the critic of a configuration is to be loaded."""

    config: Config
    templates: tuple[Template, ...]
    family: str = "fake"
    directory: Path = Path()
    """Of the checkpoint. The fake critic has none."""


def plan(config: Config) -> Plan:
    """Downloads the model if it is an id. Raises ValueError for a checkpoint that is not there, and
    Misconfigured for one that no family here loads, for flags that do not fit it, and for templates
    that make no sense."""
    own = read_own_templates(config.templates) if config.templates else ()
    if config.critic == "fake":
        return Plan(config, choose_templates(config.template_set, ["fake"], own))
    directory = _directory_of(config)
    with about_model(config, directory):
        return _plan(directory, config, own)


@contextmanager
def about_model(config: Config, directory: Path) -> Iterator[None]:
    """Complaints name the checkpoint, and are ValueErrors on one line."""
    try:
        yield
    except Exception as error:  # a broken file raises whatever its reader raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        told = " ".join(f"{kind}{error}".split())  # libraries write paragraphs
        complaint = Misconfigured(told) if isinstance(error, Misconfigured) else ValueError(told)
        raise about(f"--model {config.model or directory}", complaint) from error


def _directory_of(config: Config) -> Path:
    """Where the checkpoint lies, downloaded if the model is an id. Raises ValueError."""
    if config.model is None:
        return Path(str(files("adjudge_server") / "embedded"))
    if not is_hub_id(config.model):
        return config.model
    try:
        return fetch(str(config.model))
    except ValueError as error:
        raise ValueError(f"--model {config.model}: {error}") from error


def _plan(directory: Path, config: Config, own: Sequence[Template]) -> Plan:
    if directory.is_file():
        raise Misconfigured("a file, not the directory of a checkpoint")
    if not (directory / "config.json").is_file():
        there = "no config.json there" if directory.is_dir() else "no such directory"
        raise ValueError(f"{there}{why_no_id(directory)}")
    raw = read_json(directory / "config.json")
    family = family_of(raw) if config.critic == "auto" else config.critic
    check_chosen(family, raw)
    if family != "llava_onevision" and config.vision_heads is not None:
        raise Misconfigured("--vision-heads is for LLaVA-OneVision")
    if family == "qwen2_5_vl" and config.several_pictures != "anyres":
        raise Misconfigured("--several-pictures is for LLaVA-OneVision")
    if family == "sequence_classification" and config.engine == "in-process":
        _check_scalar(config)
        return Plan(config, (CONVERSATION,), family, directory)
    templates = choose_templates(config.template_set, _names(directory, raw, config), own)
    return Plan(config, templates, family, directory)


def _check_scalar(config: Config) -> None:
    if config.templates:
        raise Misconfigured("a model with a scalar head is not asked with --templates")
    if config.template_set != AUTO:
        raise Misconfigured("a model with a scalar head is not asked with a --template-set")


def _names(directory: Path, raw: Mapping[str, Any], config: Config) -> list[str]:
    """What a model goes by, without the folders or the organisation that it lies in."""
    called = (directory, config.model or "", raw.get("_name_or_path") or "")
    return [Path(name).name for name in called]
