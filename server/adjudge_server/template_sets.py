"""Which templates a model is asked with: the sets that ship, and a user's own."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

from adjudge_server import toml_tables
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.template_files import TemplateFile, parse
from adjudge_server.templates import Kind, Readout, RewardKind, Template

AUTO = "auto"
FALLBACK = "llava-critic"
"""For models of a name that no set knows: its prompts are the most general ones."""
CONVERSATION = Template(
    name="scalar/conversation",
    version=1,
    kind=Kind.POINTWISE,
    text="{prompt}{candidate}",
    opening="",
    answers=(),
    terminators=(),
    min_opening_mass=0.0,
    min_valid_mass=0.0,
    readouts=(Readout.DIRECT,),
    reward=RewardKind.SCALAR,
)
"""The one template of a model with a scalar head: the conversation itself, in its chat layout."""


def choose_templates(
    template_set: str, names: Sequence[str], own: Sequence[Template] = ()
) -> tuple[Template, ...]:
    """The templates for a model: the user's own first, so that they are the defaults.

    `template_set` names a set, or is "auto": the one that goes by the model's `names` (of its
    directory, its id, what its configuration calls it). Raises Misconfigured for an unknown set,
    where there is none for such a model and none of the user's own, and where two templates have
    one name.
    """
    chosen = set_for(names) if template_set == AUTO else template_set
    if chosen is None and not own:
        raise Misconfigured(
            "no templates ship for a model of this name, which answers in a way of its own: bring"
            " yours with --templates, or name a set with --template-set"
        )
    templates = (*own, *(() if chosen is None else templates_of(chosen)))
    seen: set[str] = set()
    for template in templates:
        if template.name in seen:
            raise Misconfigured(
                f"there are two templates of the name {template.name!r} in the set {chosen} and"
                " what --templates adds to it"
            )
        seen.add(template.name)
    return templates


def set_for(names: Sequence[str]) -> str | None:
    """The set with the longest pattern that matches one of a model's names, in any case.

    None where that pattern is of models that no set is for.
    """
    patterns: list[tuple[str, str | None]] = [
        *((pattern, name) for name, file in _sets().items() for pattern in file.models),
        *((pattern, None) for file in _sets().values() for pattern in file.not_models),
    ]
    matches = [
        (len(pattern), chosen)
        for pattern, chosen in patterns
        if any(fnmatchcase(name.lower(), pattern) for name in names)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else FALLBACK


def templates_of(template_set: str) -> tuple[Template, ...]:
    """Raises Misconfigured for a set that does not ship."""
    if template_set not in _sets():
        known = ", ".join(set_names())
        raise Misconfigured(f"--template-set {template_set}: must be one of {AUTO}, {known}")
    return _sets()[template_set].templates


def set_names() -> tuple[str, ...]:
    """The sets that ship with the server."""
    return tuple(_sets())


def read_own_templates(path: Path) -> tuple[Template, ...]:
    """A user's file. Raises ValueError as `toml_tables.read_file` does, naming the template."""
    return toml_tables.read_file("--templates", path, lambda source: parse(source).templates)


@cache
def _sets() -> dict[str, TemplateFile]:
    """A set is called like its file, with hyphens."""
    folder = files("adjudge_server") / "builtin_templates"
    sources = {f.name: f for f in folder.iterdir() if f.name.endswith(".toml")}
    return {
        name.removesuffix(".toml").replace("_", "-"): parse(sources[name].read_text("utf-8"))
        for name in sorted(sources)
    }
