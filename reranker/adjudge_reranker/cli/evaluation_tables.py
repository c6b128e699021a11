"""Evaluations as tables for people."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adjudge_reranker.cli.tables import number, printable
from adjudge_reranker.evaluation.metrics.benchmarks import Benchmark
from adjudge_reranker.evaluation.metrics.estimates import Estimate, Method
from adjudge_reranker.evaluation.metrics.pairs import PairFigures
from adjudge_reranker.evaluation.metrics.scores import ScoreFigures
from adjudge_reranker.evaluation.report import Counts, Report, Section

_OVERALL = "all"
_NO_SUBSET = "(no subset)"
_NOTHING = "-"
_Row = tuple[str, str, str, str, str]
"""Name, value, interval, n, and how the interval was found."""


def report_tables(report: Report, file: str) -> RenderableType:
    """What was answered, all figures, and those of a published benchmark if it is one."""
    sections = [(_OVERALL, report.overall)]
    sections += [(one.subset or _NO_SUBSET, one) for one in report.subsets]
    tables = [_counts_table(sections, file), _figures_table(sections, report)]
    if report.benchmark is not None:
        tables.append(_benchmark_table(report.benchmark, report.overall.counts))
    return Group(*tables)


def _counts_table(sections: Sequence[tuple[str, Section]], file: str) -> Table:
    table = _table(file, "subset", "total", "answered", "failed", "reasons")
    for name, section in sections:
        counts = section.counts
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.items())
        numbers = (counts.total, counts.answered, counts.failed)
        table.add_row(printable(name), *map(str, numbers), printable(reasons))
    return table


def _figures_table(sections: Sequence[tuple[str, Section]], report: Report) -> Table:
    table = _table(
        "Figures over what was answered", "subset", "figure", "value", "95 % interval", "n", "by"
    )
    table.caption = _critics(report)
    table.caption_justify = "left"
    for name, section in sections:
        for index, row in enumerate(_rows(section)):
            table.add_row(printable(name) if index == 0 else "", *row)
        table.add_section()
    return table


def _benchmark_table(benchmark: Benchmark, counts: Counts) -> Table:
    table = _table(
        f"{benchmark.name}, as it defines them", "figure", "value", "95 % interval", "n", "by"
    )
    for figure in benchmark.figures:
        name, *cells = _row(figure.name, figure.estimate)
        table.add_row(printable(name), *cells)
    if counts.failed:
        table.caption = Text(f"{counts.failed} of {counts.total} items failed and are in no figure")
        table.caption_justify = "left"
    return table


def _critics(report: Report) -> Text:
    lines = (
        f"{one.model}, epoch {one.weights_epoch}, {one.template} {one.template_hash[:12]}"
        for one in report.critics
    )
    return printable("\n".join(lines))


def _rows(section: Section) -> Iterator[_Row]:
    if section.pairs is not None:
        yield from _pair_rows(section.pairs)
    if section.scores is not None:
        yield from _score_rows(section.scores)
    if section.groups is not None:
        yield _row("best is chosen", section.groups.best_is_chosen)


def _pair_rows(pairs: PairFigures) -> Iterator[_Row]:
    yield _row("pairwise accuracy, without ties", pairs.accuracy)
    yield _row("three-way accuracy, with ties", pairs.three_way_accuracy)
    yield _row("order consistency", pairs.order_consistency)
    yield _row("ties called ties", pairs.ties_called_ties)
    yield _row("calibration error of preference", pairs.preference_calibration.error)
    bias = pairs.position_bias
    yield _row("position bias, mean in nats", bias.mean)
    n = str(bias.mean.n)
    yield "position bias, sd", number(bias.standard_deviation), _NOTHING, n, _NOTHING
    quantiles = dict(bias.quantiles)
    for name, level in (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95)):
        yield f"position bias, {name}", number(quantiles.get(level)), _NOTHING, n, _NOTHING


def _score_rows(scores: ScoreFigures) -> Iterator[_Row]:
    yield _row("Pearson", scores.pearson)
    yield _row("Spearman", scores.spearman)
    if scores.mean_absolute_error is not None:
        yield _row("mean absolute error of reward", scores.mean_absolute_error)
    if scores.reward_calibration is not None:
        yield _row("calibration error of reward", scores.reward_calibration.error)


def _row(name: str, estimate: Estimate) -> _Row:
    interval, by = _NOTHING, _NOTHING
    if estimate.interval is not None:
        low, high = estimate.interval
        interval = f"{number(low)} to {number(high)}"
        by = _BY[estimate.method]
        if estimate.clusters is not None:
            by += f", {estimate.clusters} clusters"
    return name, number(estimate.value), interval, str(estimate.n), by


_BY = {
    Method.WILSON: "Wilson",
    Method.FISHER_Z: "Fisher z",
    Method.BOOTSTRAP: "bootstrap",
    Method.BASIC_BOOTSTRAP: "basic bootstrap",
}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=printable(title), title_justify="left")
    for column in columns:
        numeric = column in ("total", "answered", "failed", "value", "n", "95 % interval")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    return table
