"""Which templates a model is asked with: the sets that ship, and a user's own."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

from adjudge_server.template_files import TemplateFile, parse
from adjudge_server.templates import Template

AUTO = "auto"
FALLBACK = "llava-critic"
"""For models of a name that no set knows: its prompts are the most general ones."""


def choose_templates(
    template_set: str, names: Sequence[str], own: Sequence[Template] = ()
) -> tuple[Template, ...]:
    """The templates for a model: the user's own first, so that they are the defaults.

    `template_set` names a set, or is "auto": the one that goes by the model's `names` (of its
    directory, its id, what its configuration calls it). Raises ValueError for an unknown set, and
    where two templates have one name.
    """
    chosen = set_for(names) if template_set == AUTO else template_set
    templates = (*own, *templates_of(chosen))
    seen: set[str] = set()
    for template in templates:
        if template.name in seen:
            raise ValueError(
                f"there are two templates of the name {template.name!r} in the set {chosen} and"
                " what --templates adds to it"
            )
        seen.add(template.name)
    return templates


def set_for(names: Sequence[str]) -> str:
    """The set with the longest pattern that matches one of a model's names, in any case."""
    matches = [
        (len(pattern), name)
        for name, file in _sets().items()
        for pattern in file.models
        if any(fnmatchcase(n.lower(), pattern) for n in names)
    ]
    return max(matches)[1] if matches else FALLBACK


def templates_of(template_set: str) -> tuple[Template, ...]:
    """Raises ValueError for a set that does not ship."""
    if template_set not in _sets():
        known = ", ".join(set_names())
        raise ValueError(f"--template-set {template_set}: must be one of {AUTO}, {known}")
    return _sets()[template_set].templates


def set_names() -> tuple[str, ...]:
    """The sets that ship with the server."""
    return tuple(_sets())


def read_own_templates(path: Path) -> tuple[Template, ...]:
    """A user's file. Raises ValueError, naming flag, file and template."""
    try:
        return parse(path.read_text(encoding="utf-8")).templates
    except (OSError, ValueError) as error:  # what is no TOML, or no UTF-8, is a ValueError
        raise ValueError(f"--templates {path}: {error}") from error


@cache
def _sets() -> dict[str, TemplateFile]:
    """A set is called like its file, with hyphens."""
    folder = files("adjudge_server") / "builtin_templates"
    sources = {f.name: f for f in folder.iterdir() if f.name.endswith(".toml")}
    return {
        name.removesuffix(".toml").replace("_", "-"): parse(sources[name].read_text("utf-8"))
        for name in sorted(sources)
    }
