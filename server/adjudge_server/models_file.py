"""Reads which critics one server has, and which ensembles of them, from TOML.

`[[critic]]` tables: `name`, and what belongs to one critic, by the names of the flags (`model`,
`device`, `dtype`, `templates`…; the family, `--critic` beside a single one, is `family`).
`[[ensemble]]` tables: `name`, `combine`, with "spread-penalised" also `penalty` and perhaps
`spread`, and `[[ensemble.member]]` tables: `critic`, and where the default does not do, `template`,
`weight`, `scale`, `offset`, `pictures`. Beside the tables: `default`, the name of the model that
requests ask without naming one; else it is the first critic. `docs/critics.md` says what they mean.

Paths are relative to the file's own folder.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from adjudge_server import toml_tables
from adjudge_server.combining import MAX_MEMBERS, Combination, Spread
from adjudge_server.config import CHOICES, Config
from adjudge_server.definitions import Definition, Member
from adjudge_server.hub import is_hub_id
from adjudge_server.template_sets import AUTO, set_names
from adjudge_server.toml_tables import Table

DIVIDED = ("max_prefix_bytes", "max_feature_bytes")
"""Of these a flag says how much there is for all critics that say nothing of their own; they get
equal parts."""
LARGEST = 2**63 - 1
LARGEST_NUMBER = 1e12
T = TypeVar("T")

Read = Callable[[object], Any]


class Pictures(Enum):
    SHOW = "show"
    LEAVE_OUT = "leave out"


@dataclass(frozen=True, slots=True)
class ModelsFile:
    """What one file says."""

    critics: tuple[Config, ...]
    """Each as if it were alone in its server; their names are set."""
    ensembles: tuple[Definition, ...]
    default: str
    """Name of one of them all."""


def read_models(config: Config) -> ModelsFile:
    """The file that a configuration names; without one, its single critic.

    Raises Misconfigured, naming file, table and key, where something makes no sense, and another
    ValueError for a file that cannot be read.
    """
    if config.models is None:
        return ModelsFile((config,), (), config.name or "")
    path = config.models
    return toml_tables.read_file(
        "--models", path, lambda source: parse(source, config, path.parent)
    )


def parse(source: str, config: Config, folder: Path) -> ModelsFile:
    """`config` says what the tables do not; paths are relative to `folder`."""
    top = Table(tomllib.loads(source))
    tables = top.take("critic", toml_tables.tables, [])
    if not tables:
        raise ValueError("critics are written as [[critic]] tables; there are none")
    critics = _critics(tables, config, folder)
    names = [critic.name or "" for critic in critics]
    ensembles = tuple(
        _named("ensemble", table, lambda table: _ensemble(table, names))
        for table in top.take("ensemble", toml_tables.tables, [])
    )
    names += [ensemble.name for ensemble in ensembles]
    if again := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise ValueError(f"there are two models of the name {again!r}")
    default = top.take("default", toml_tables.choice(names), names[0])
    top.check_is_empty("outside of [[critic]] and [[ensemble]] tables")
    return ModelsFile(critics, ensembles, default)


def _critics(
    tables: Sequence[Mapping[str, Any]], config: Config, folder: Path
) -> tuple[Config, ...]:
    keys = _keys(folder)
    parts: dict[str, Any] = {
        field: getattr(config, field) // max(1, sum(field not in table for table in tables))
        for field in DIVIDED
    }

    def admin(stated: Mapping[str, Any]) -> dict[str, Any]:
        """The weights of a model elsewhere are not this server's to move."""
        is_here = stated.get("engine", config.engine) == "in-process"
        return {} if is_here else {"enable_admin": False, "weights_dir": ()}

    def read(table: Table) -> Config:
        name = table.take("name", toml_tables.line)
        stated = {
            "critic" if key == "family" else key: table.take(key, reader)
            for key, reader in keys.items()
            if key in table
        }
        table.check_is_empty()
        return replace(config, models=None, **admin(stated), **{**parts, **stated, "name": name})

    return tuple(_named("critic", table, read) for table in tables)


def _keys(folder: Path) -> dict[str, Read]:
    """How each key of a [[critic]] table is read, beside `name`."""
    positive, any_number = (toml_tables.integer(least, LARGEST) for least in (1, 0))
    seconds = toml_tables.number(1.0, LARGEST_NUMBER)
    return {
        "family": toml_tables.choice(CHOICES["critic"]),
        "model": _checkpoint(folder),
        "engine": toml_tables.choice(CHOICES["engine"]),
        "engine_url": toml_tables.line,
        "engine_model": toml_tables.line,
        "engine_key": _file(folder),
        "engine_timeout_seconds": seconds,
        "engine_concurrency": positive,
        "engine_start_seconds": seconds,
        "device": toml_tables.line,
        **{key: toml_tables.choice(CHOICES[key]) for key in ("dtype", "convert_rgb", "exif")},
        "several_pictures": toml_tables.choice(CHOICES["several_pictures"]),
        "vision_heads": positive,
        "template_set": toml_tables.choice((AUTO, *set_names())),
        "templates": _file(folder),
        "repetition_penalty": toml_tables.number(1.0, LARGEST_NUMBER),
        "max_input_tokens": positive,
        "max_batch_tokens": positive,
        "max_queue_tokens": positive,
        "watchdog_seconds": toml_tables.number(0.0, LARGEST_NUMBER),
        **{key: any_number for key in DIVIDED},
    }


def _ensemble(table: Table, critics: Sequence[str]) -> Definition:
    name = table.take("name", toml_tables.line)
    combination = table.take("combine", toml_tables.member(Combination))
    more: dict[str, Any] = {}
    if combination is Combination.SPREAD_PENALISED:
        more["penalty"] = table.take("penalty", toml_tables.number(0.0, LARGEST_NUMBER))
        standard = Spread.STANDARD_DEVIATION.value
        more["spread"] = table.take("spread", toml_tables.member(Spread), standard)
    has_weights = combination is not Combination.MINIMUM
    members = tuple(
        _named("member", member, lambda table: _member(table, critics, has_weights), key="critic")
        for member in table.take("member", toml_tables.tables)
    )
    table.check_is_empty()
    _check_members(members)
    return Definition(name, combination, members, **more)


def _check_members(members: Sequence[Member]) -> None:
    if not 2 <= len(members) <= MAX_MEMBERS:
        raise ValueError(f"member: there are 2 to {MAX_MEMBERS} members, not {len(members)}")
    asked = [(member.critic, member.template) for member in members]
    if len(set(asked)) < len(asked):
        raise ValueError("member: a critic is there twice with the same template")
    if all(member.leaves_pictures_out for member in members):
        raise ValueError("member: pictures: somebody must be shown them")


def _member(table: Table, critics: Sequence[str], has_weights: bool) -> Member:
    critic = table.take("critic", toml_tables.choice(critics))
    template = table.take("template", toml_tables.line) if "template" in table else ""
    if not has_weights and "weight" in table:
        raise ValueError("weight: the minimum has none; whoever gives the lowest reward decides")
    weight = table.take("weight", _weight, 1.0)
    scale = table.take("scale", _scale, 1.0)
    offset = table.take("offset", toml_tables.number(-LARGEST_NUMBER, LARGEST_NUMBER), 0.0)
    pictures = table.take("pictures", toml_tables.member(Pictures), Pictures.SHOW.value)
    table.check_is_empty()
    return Member(critic, template, weight, scale, offset, pictures is Pictures.LEAVE_OUT)


def _named(
    kind: str, table: Mapping[str, Any], read: Callable[[Table], Any], key: str = "name"
) -> Any:
    """What `read` makes of a table; its complaints say which."""
    try:
        return read(Table(table))
    except ValueError as error:
        raise ValueError(f"{kind} {table.get(key)!r}: {error}") from error


# What values are ----------------------------------------------------------------------------------


def _weight(value: object) -> float:
    weight = toml_tables.number(0.0, LARGEST_NUMBER)(value)
    if weight == 0:
        raise ValueError("0: who does not count is no member")
    return weight


def _scale(value: object) -> float:
    scale = toml_tables.number(-LARGEST_NUMBER, LARGEST_NUMBER)(value)
    if scale == 0:
        raise ValueError("0: nothing would be left of the reward")
    return scale


def _file(folder: Path) -> Callable[[object], Path]:
    return lambda value: folder / Path(toml_tables.line(value)).expanduser()


def _checkpoint(folder: Path) -> Callable[[object], Path]:
    """A directory, or the id of a model on a hub."""

    def read(value: object) -> Path:
        text = toml_tables.line(value)
        there = folder / Path(text).expanduser()
        is_path = text.startswith((".", "/", "~")) or text.endswith("/")
        is_here = is_path or there.exists() or there.parent.exists()
        return Path(text) if not is_here and is_hub_id(Path(text)) else there.absolute()

    return read
