"""What deploy/ says, read back: command lines, probes, and how long a server has to end."""

import configparser
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


@dataclass(frozen=True, slots=True)
class GrpcProbe:
    port: int
    service: str


@dataclass(frozen=True, slots=True)
class CommandProbe:
    command: tuple[str, ...]


Probe = GrpcProbe | CommandProbe


@dataclass(frozen=True, slots=True)
class Deployed:
    """One way of running the server."""

    name: str
    command: tuple[str, ...]
    stop_seconds: float | None
    """From SIGTERM to SIGKILL, where the file says it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def flags(self) -> list[str]:
        return list(self.command[1:])


def unit() -> dict[str, list[str]]:
    """Of the section [Service]."""
    text = (DEPLOY / "adjudge.service").read_text().replace("\\\n", " ")
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {name: shlex.split(value) for name, value in parser["Service"].items()}


def variables() -> dict[str, str]:
    """Of the unit's environment file."""
    lines = (DEPLOY / "adjudge.env").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def systemd() -> Deployed:
    service = unit()
    command: list[str] = []
    for word in service["ExecStart"]:
        command += variables()[word[1:]].split() if word.startswith("$") else [word]
    (seconds,) = service["TimeoutStopSec"]
    return Deployed("systemd", tuple(command), float(seconds.removesuffix("s")))


def instructions() -> list[tuple[str, str]]:
    """Of the container file: name and arguments, in order."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [
        (name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)
    ]


def container() -> Deployed:
    said = dict(instructions())  # the last of each counts
    command = [*json.loads(said["ENTRYPOINT"]), *json.loads(said["CMD"])]
    environment = dict(pair.split("=", 1) for pair in shlex.split(said["ENV"]))
    probe = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    return Deployed(
        "container",
        tuple(command),
        None,
        environment,
        {"HEALTHCHECK": CommandProbe(tuple(probe))},
    )


def manifests(overlay: str) -> dict[str, Any]:
    """By `key`, as `kubectl kustomize` would render them: names of images aside."""
    directory = KUBERNETES / overlay
    said = yaml.safe_load((directory / "kustomization.yaml").read_text())
    found: dict[str, Any] = {}
    for resource in said["resources"]:
        if (directory / resource).is_dir():
            found |= manifests(str((directory / resource).resolve().relative_to(KUBERNETES)))
        else:
            document = yaml.safe_load((directory / resource).read_text())
            found[key(document)] = document
    for patch in said.get("patches", ()):
        operations = yaml.safe_load((directory / patch["path"]).read_text())
        found[patch["target"]["kind"]] = patched(found[patch["target"]["kind"]], operations)
    return found


def key(document: Mapping[str, Any]) -> str:
    """Its kind, and its name where that is not Adjudge's."""
    name = document["metadata"]["name"]
    return document["kind"] if name == "adjudge" else f"{document['kind']} {name}"


def patched(document: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """The part of RFC 6902 that deploy/ uses: add (to a mapping, or at a list's end) and replace.
    Raises KeyError where there is nothing to replace."""
    document = deepcopy(document)
    for operation in operations:
        *path, last = (
            step.replace("~1", "/").replace("~0", "~") for step in operation["path"][1:].split("/")
        )
        at = document
        for step in path:
            at = at[int(step)] if isinstance(at, list) else at[step]
        if operation["op"] == "add" and last == "-":
            at.append(operation["value"])
        elif operation["op"] == "add" or (operation["op"] == "replace" and at[last] is not None):
            at[last] = operation["value"]
        else:
            raise ValueError(f"unknown operation: {operation['op']}")
    return document


def pod(overlay: str) -> Any:
    return manifests(overlay)["StatefulSet"]["spec"]["template"]["spec"]


def kubernetes(overlay: str) -> Deployed:
    spec = pod(overlay)
    (server,) = spec["containers"]
    return Deployed(
        f"kubernetes/{overlay}",
        ("adjudge-server", *server["args"]),
        spec["terminationGracePeriodSeconds"],
        {variable["name"]: variable["value"] for variable in server.get("env", ())},
        {name: _probe(server[name]) for name in server if name.endswith("Probe")},
    )


def _probe(said: Mapping[str, Any]) -> Probe:
    if "exec" in said:
        return CommandProbe(tuple(said["exec"]["command"]))
    return GrpcProbe(said["grpc"]["port"], said["grpc"]["service"])


OVERLAYS = ("base", "tls", "gpu")


def all_ways() -> list[Deployed]:
    return [systemd(), container(), *(kubernetes(overlay) for overlay in OVERLAYS)]
