"""What a server says about a model, for people."""

from collections.abc import Iterator
from dataclasses import MISSING, fields

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adjudge_reranker.cli.tables import label, printable
from adjudge_reranker.model_info import (
    Combination,
    EnsembleInfo,
    Limits,
    ModelInfo,
    Template,
    TemplateKind,
)

_RULES = {
    Combination.WEIGHTED: "the weighted mean of its members' rewards",
    Combination.MINIMUM: "the lowest of its members' rewards",
    Combination.SPREAD_PENALISED: "the weighted mean of its members' rewards",
    Combination.UNKNOWN: "something newer than this client",
}


def model_tables(model: ModelInfo) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(model):
        facts.add_row(Text(name, style="bold"), printable(value))
    parts: list[RenderableType] = [facts, ""]
    if model.ensemble is not None:
        parts += [_members(model.ensemble), ""]
    return Group(*parts, _templates(model), "", _limits(model.limits))


def _facts(model: ModelInfo) -> Iterator[tuple[str, str]]:
    """Those that there are: an ensemble has no device, no pictures and no noise of its own."""
    yield "model", model.name
    for name, value in (
        ("revision", model.revision),
        ("fingerprint", model.fingerprint),
        ("weights epoch", str(model.weights_epoch)),
        ("family", model.family),
        ("runs on", ", ".join(filter(None, (model.device, model.dtype)))),
        ("can", ", ".join(model.capabilities)),
        ("noise floor", "" if model.noise_floor is None else f"{model.noise_floor:.2g} nats"),
        ("prefers right to wrong", "" if model.ensemble else _YES_NO[model.prefers_right]),
        ("pictures", ", ".join(f"{k} {v}" for k, v in model.preprocessing.items())),
        ("reward", _rule(model.ensemble) if model.ensemble else ""),
        ("server", model.server_version),
        ("its models", ", ".join(model.served_models)),
    ):
        if value:
            yield name, value


_YES_NO = {True: "yes", False: "no", None: "it said neither"}


def _rule(ensemble: EnsembleInfo) -> str:
    rule = f"{ensemble.combination}: {_RULES[ensemble.combination]}"
    if ensemble.penalty is None:
        return rule
    return f"{rule} - {ensemble.penalty:g} x their {ensemble.spread}"


def _members(ensemble: EnsembleInfo) -> Table:
    table = Table("member", "template", "weight", "r =", "pictures")
    for member in ensemble.members:
        table.add_row(
            printable(member.model),
            printable(member.template),
            label(member.weight),
            f"{member.scale:g} x reward {member.offset:+g}",
            "left out" if member.omits_pictures else "shown",
        )
    return table


def _templates(model: ModelInfo) -> Table:
    counts_answers = any(template.answers for template in model.templates)
    table = Table("template", "kind", "rewards", *(["answers"] if counts_answers else []), "hash")
    for template in model.templates:
        answers = str(len(template.answers)) if template.answers else ""
        table.add_row(
            printable(f"{template.name} v{template.version}"),
            template.kind,
            _range(template),
            *([answers] if counts_answers else []),
            template.hash[:12],
        )
    return table


def _range(template: Template) -> str:
    if template.kind is not TemplateKind.POINTWISE:
        return ""
    if template.min_reward is None or template.max_reward is None:
        return "no range"
    return f"{label(template.min_reward)} to {label(template.max_reward)}"


def _limits(limits: Limits) -> Table:
    """By the names that errors and JSON give them."""
    table = Table("limit", "value")
    table.columns[1].justify = "right"
    for field in fields(limits):
        value = getattr(limits, field.name)
        said_nothing = () if field.default is MISSING else (field.default,)
        if value is None or value in said_nothing:
            continue
        table.add_row(field.name, printable(_value(value)))
    return table


def _value(value: int | float | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
