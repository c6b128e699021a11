"""Reads templates from TOML: `[[template]]` tables, as in `builtin_templates/`.

Keys of a table: `name`, `version`, `kind`, `text` (with the slots {prompt}, {candidate} or {first}
and {second}, {reference}, {rubric}), `opening`, `terminators`; one of `scores`, `relative` and
`verdicts`; and, where the default does not do, `other_openings`, `after`, `verdict`, `reward`,
`min_opening_mass`, `min_valid_mass`, `readouts`. `templates.Template` says what they mean.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adjudge_server.templates import (
    CANDIDATE_SLOTS,
    Answer,
    Kind,
    Readout,
    RewardKind,
    Template,
    VerdictPlace,
)

_NEEDED = {Kind.POINTWISE: {"candidate"}, Kind.PAIRWISE: {"first", "second"}}


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """What one file says."""

    models: tuple[str, ...]
    """Glob patterns of the names of the models that its templates are for; may be empty."""
    templates: tuple[Template, ...]


def parse(source: str) -> TemplateFile:
    """Raises ValueError, naming the template, where one makes no sense."""
    document = tomllib.loads(source)
    tables = document.pop("template", None)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("templates are written as [[template]] tables; there are none")
    try:
        models = _texts(document.pop("models", []), at_least=0)
    except TypeError as error:
        raise ValueError(f"models: {error}") from error
    if document:
        raise ValueError(f"unknown keys {sorted(document)} outside of [[template]] tables")
    return TemplateFile(models, tuple(_template(table) for table in tables))


def _template(table: Mapping[str, Any]) -> Template:
    known = dict(table)
    name = known.pop("name", None)
    try:
        template = _build(_text(name), known)
        _check(template)
    except KeyError as error:
        raise ValueError(f"template {name!r}: the key {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"template {name!r}: {error}") from error
    if known:
        raise ValueError(f"template {name!r}: unknown keys {sorted(known)}")
    return template


def _build(name: str, known: dict[str, Any]) -> Template:
    """Takes what it knows out of `known`."""
    kind = Kind(known.pop("kind"))
    reward = RewardKind(known.pop("reward", "expected"))
    return Template(
        name=name,
        version=int(known.pop("version")),
        kind=kind,
        text=_text(known.pop("text")),
        opening=_text(known.pop("opening")),
        answers=_answers(kind, reward, known),
        terminators=_texts(known.pop("terminators"), at_least=0),
        min_opening_mass=float(known.pop("min_opening_mass", -4.0)),
        min_valid_mass=float(known.pop("min_valid_mass", 0.5)),
        readouts=tuple(
            Readout(r) for r in _texts(known.pop("readouts", ["direct", "after-critique"]))
        ),
        other_openings=_texts(known.pop("other_openings", []), at_least=0),
        after=_text(known.pop("after", "")),
        verdict=VerdictPlace(known.pop("verdict", "first")),
        reward=reward,
    )


def _check(template: Template) -> None:
    needed = _NEEDED[template.kind]
    if template.slots & CANDIDATE_SLOTS != needed:
        raise ValueError(
            f"a {template.kind.value} template has a slot for each of {sorted(needed)},"
            f" not for {sorted(template.slots & CANDIDATE_SLOTS)}"
        )
    if len(set(template.openings)) < len(template.openings):
        raise ValueError("an opening is given twice")
    if template.after and Readout.DIRECT in template.readouts:
        raise ValueError("a template with `after` cannot be read directly, before that text")


def _answers(kind: Kind, reward: RewardKind, known: dict[str, Any]) -> tuple[Answer, ...]:
    if reward is RewardKind.SCALAR:
        raise ValueError("only a critic with a scalar head has scalar rewards, without a file")
    if reward is RewardKind.LOG_ODDS:
        if kind is Kind.PAIRWISE:
            raise ValueError("only pointwise templates have a reward")
        return _verdict_answers(known.pop("verdicts"), ("yes", "no"), optional=())
    if kind is Kind.POINTWISE:
        return _score_answers(**known.pop("scores"))
    if "relative" in known:
        return _relative_answers(**known.pop("relative"))
    return _verdict_answers(known.pop("verdicts"), ("first", "second", "tie"), optional=("tie",))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _texts(value: object, at_least: int = 1) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < at_least:  # a string is no list of letters
        raise TypeError(f"{value!r} is not a list of texts")
    return tuple(_text(item) for item in value)


def _scale(lowest: int, highest: int) -> range:
    if not lowest < highest:
        raise ValueError(f"the lowest score, {lowest}, is not below the highest, {highest}")
    return range(lowest, highest + 1)


def _score_answers(lowest: int, highest: int) -> tuple[Answer, ...]:
    return tuple(Answer(str(s), (str(s),), float(s)) for s in _scale(lowest, highest))


def _relative_answers(lowest: int, highest: int) -> tuple[Answer, ...]:
    """Two scores, the first response's and the second's: whoever has the higher one is better."""
    scale = _scale(lowest, highest)

    def pairs(sign: int) -> Iterator[str]:
        return (f"{a} {b}" for a in scale for b in scale if (a > b) - (a < b) == sign)

    signs = {"first": 1, "second": -1, "tie": 0}
    return tuple(Answer(label, tuple(pairs(sign))) for label, sign in signs.items())


def _verdict_answers(
    verdicts: Mapping[str, list[str]], labels: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[Answer, ...]:
    given = set(verdicts)
    if not set(labels) - set(optional) <= given <= set(labels):
        without = f" ({', '.join(optional)} may be left out)" if optional else ""
        raise ValueError(f"verdicts must be {', '.join(labels)}{without}, not {sorted(given)}")
    return tuple(Answer(label, _texts(verdicts[label])) for label in labels if label in given)
