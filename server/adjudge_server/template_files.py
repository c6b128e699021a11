"""Reads templates from TOML: `[[template]]` tables, as in `builtin_templates/`.

Keys of a table: `name`, `version`, `kind`, `text` (with the slots {prompt}, {candidate} or {first}
and {second}, {reference}, {rubric}), `opening`, `terminators`; one of `scores`, `relative` and
`verdicts`; and, where the default does not do, `other_openings`, `after`, `verdict`, `reward`,
`min_opening_mass`, `min_valid_mass`, `readouts`. `templates.Template` says what they mean.

In `text`, another {word} than a slot is refused, because it is most often a slot misspelt: write
{{word}} for {word}. All other braces, also those around a slot, stand for themselves.

Beside the tables: `models`, and `not_models`, see `TemplateFile`.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adjudge_server import toml_tables
from adjudge_server.templates import (
    CANDIDATE_SLOTS,
    SLOTS,
    Answer,
    Kind,
    Readout,
    RewardKind,
    Template,
    VerdictPlace,
)
from adjudge_server.toml_tables import Table

MAX_VERSION = 2**31 - 1
MAX_SCORE = 10**6
MIN_MASS = -1e9
"""Nats: lower than any text's."""
_NEEDED_SLOTS = {Kind.POINTWISE: {"candidate"}, Kind.PAIRWISE: {"first", "second"}}
_WORD = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """What one file says."""

    models: tuple[str, ...]
    """Glob patterns of the names of the models that its templates are for; may be empty."""
    not_models: tuple[str, ...]
    """Patterns of names that look like these, of models that answer in another way."""
    templates: tuple[Template, ...]


def parse(source: str) -> TemplateFile:
    """Raises ValueError, naming template and key, where something makes no sense."""
    top = Table(tomllib.loads(source))
    tables = top.take("template", toml_tables.tables, [])
    if not tables:
        raise ValueError("templates are written as [[template]] tables; there are none")
    models = top.take("models", toml_tables.texts, [])
    not_models = top.take("not_models", toml_tables.texts, [])
    top.check_is_empty("outside of [[template]] tables")
    return TemplateFile(models, not_models, tuple(_template(table) for table in tables))


def _template(table: Mapping[str, Any]) -> Template:
    try:
        return _build(Table(table))
    except ValueError as error:
        raise ValueError(f"template {table.get('name')!r}: {error}") from error


def _build(table: Table) -> Template:
    kind = table.take("kind", toml_tables.member(Kind))
    reward = table.take("reward", toml_tables.member(RewardKind), "expected")
    template = Template(
        name=table.take("name", toml_tables.line),
        version=table.take("version", toml_tables.integer(1, MAX_VERSION)),
        kind=kind,
        text=table.take("text", _text_with_slots),
        opening=table.take("opening", toml_tables.text),
        answers=_answers(kind, reward, table),
        terminators=table.take("terminators", _wordings),
        min_opening_mass=table.take("min_opening_mass", toml_tables.number(MIN_MASS, 0.0), -4.0),
        min_valid_mass=table.take("min_valid_mass", toml_tables.number(0.0, 1.0), 0.5),
        readouts=table.take("readouts", _readouts, ["direct", "after-critique"]),
        other_openings=table.take("other_openings", toml_tables.texts, []),
        after=table.take("after", toml_tables.text, ""),
        verdict=table.take("verdict", toml_tables.member(VerdictPlace), "first"),
        reward=reward,
    )
    table.check_is_empty()
    _check(template)
    return template


def _check(template: Template) -> None:
    needed = _NEEDED_SLOTS[template.kind]
    if template.slots & CANDIDATE_SLOTS != needed:
        raise ValueError(
            f"text: a {template.kind.value} template has a slot for each of {sorted(needed)},"
            f" not for {sorted(template.slots & CANDIDATE_SLOTS)}"
        )
    if len(set(template.openings)) < len(template.openings):
        raise ValueError("other_openings: an opening is given twice")
    if template.after and Readout.DIRECT in template.readouts:
        raise ValueError(
            "readouts: a template with `after` cannot be read directly, before that text"
        )


def _answers(kind: Kind, reward: RewardKind, table: Table) -> tuple[Answer, ...]:
    if reward is RewardKind.SCALAR:
        raise ValueError("reward: only a critic with a scalar head has scalar ones, without a file")
    if reward is RewardKind.ENSEMBLE:
        raise ValueError("reward: only ensembles have such ones, and they are no templates")
    if reward is RewardKind.LOG_ODDS:
        if kind is Kind.PAIRWISE:
            raise ValueError("reward: only pointwise templates have one")
        return table.take("verdicts", _verdicts("yes", "no"))
    if kind is Kind.POINTWISE:
        return table.take("scores", _scores)
    if "relative" in table:
        return table.take("relative", _relative)
    return table.take("verdicts", _verdicts("first", "second", optional="tie"))


# What values are ----------------------------------------------------------------------------------


def _text_with_slots(value: object) -> str:
    def checked(match: re.Match[str]) -> str:
        escaped, plain = match.groups()
        if (escaped or plain) in SLOTS:
            return match.group()
        if plain:
            raise ValueError(
                f"{{{plain}}} is no slot; the slots are {', '.join(sorted(SLOTS))}, and"
                f" {{{{{plain}}}}} stands for {{{plain}}} itself"
            )
        return f"{{{escaped}}}"

    return _WORD.sub(checked, toml_tables.text(value))


def _wordings(value: object) -> tuple[str, ...]:
    texts = toml_tables.texts(value)
    if "" in texts:
        raise ValueError("an empty text says nothing")
    return texts


def _readouts(value: object) -> tuple[Readout, ...]:
    if not (texts := toml_tables.texts(value)):
        raise ValueError("there must be one")
    return tuple(map(toml_tables.member(Readout), texts))


# What answers are ---------------------------------------------------------------------------------


def _scale(value: object) -> range:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no table with `lowest` and `highest`")
    table = Table(value)
    score = toml_tables.integer(-MAX_SCORE, MAX_SCORE)
    lowest, highest = table.take("lowest", score), table.take("highest", score)
    table.check_is_empty()
    if not lowest < highest:
        raise ValueError(f"the lowest score, {lowest}, is not below the highest, {highest}")
    return range(lowest, highest + 1)


def _scores(value: object) -> tuple[Answer, ...]:
    return tuple(Answer(str(s), (str(s),), float(s)) for s in _scale(value))


def _relative(value: object) -> tuple[Answer, ...]:
    """Two scores, the first response's and the second's: whoever has the higher one is better."""
    scale = _scale(value)

    def pairs(sign: int) -> Iterator[str]:
        return (f"{a} {b}" for a in scale for b in scale if (a > b) - (a < b) == sign)

    signs = {"first": 1, "second": -1, "tie": 0}
    return tuple(Answer(label, tuple(pairs(sign))) for label, sign in signs.items())


def _verdicts(*needed: str, optional: str = "") -> Callable[[object], tuple[Answer, ...]]:
    """Reads a table of the wordings of each answer."""

    def wordings(value: object) -> tuple[str, ...]:
        if not (texts := _wordings(value)):
            raise ValueError("there must be a wording")
        return texts

    def read(value: object) -> tuple[Answer, ...]:
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} is no table of the wordings of {', '.join(needed)}")
        table = Table(value)
        labels = [*needed, *([optional] if optional in table else [])]
        answers = tuple(Answer(label, table.take(label, wordings)) for label in labels)
        table.check_is_empty()
        return answers

    return read
