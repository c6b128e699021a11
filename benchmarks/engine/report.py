"""A run's results as text, JSON, a picture, and a part of the README."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine.bars import BARS
from benchmarks.engine.results import Results, Row

BEGIN, END = "<!-- figures: written by the benchmark -->", "<!-- end of figures -->"
LONGEST_NUMBER = 5


def text(results: Results) -> str:
    said = [", ".join(f"{key} {value}" for key, value in results.environment.items()), ""]
    for section in dict.fromkeys(row.section for row in results.rows):
        rows = [row for row in results.rows if row.section == section]
        said += [section, *_aligned([_cells(row) for row in rows]), ""]
    said += ["bars", *_aligned(_bar_cells(results)), ""]
    return "\n".join([*said, *results.notes])


def write_json(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")


def write_plot(results: Results, path: Path) -> None:
    """Seconds against the number of responses, one panel for each size of picture."""
    from matplotlib.figure import Figure

    drawn = [row for row in results.rows if row.unit == "s" and row.size and row.count]
    sizes = list(dict.fromkeys(row.size for row in drawn))
    figure = Figure(figsize=(6 * max(1, len(sizes)), 5), layout="constrained")
    for number, size in enumerate(sizes, 1):
        axes = figure.add_subplot(1, len(sizes), number)
        _draw(axes, [row for row in drawn if row.size == size])
        axes.set(title=size, xlabel="responses or comparisons", ylabel="seconds")
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def write_readme(results: Results, path: Path) -> None:
    """Replaces what stands between the markers. Raises ValueError where they are missing."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: no figures between {BEGIN!r} and {END!r}")
    path.write_text(f"{before}{BEGIN}\n{_markdown(results)}\n{END}{after}", encoding="utf-8")


def _markdown(results: Results) -> str:
    where = ", ".join(f"{key} {value}" for key, value in results.environment.items())
    bars = [("bar", "measured", "limit", "", "what"), *_bar_cells(results)]
    rows: list[tuple[str, ...]] = [
        ("measurement", "what", "picture", "N", "median", "lowest to highest")
    ]
    rows += [(row.section, *_cells(row)) for row in results.rows]
    notes = [f"- {note}" for note in results.notes]
    return "\n".join(["", where, "", *_table(bars), "", *_table(rows), "", *notes])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


def _bar_cells(results: Results) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for bar in BARS:
        value = results.bars.get(bar.name)
        verdict = "" if value is None else "met" if bar.is_met(value) else "MISSED"
        shown = "not measured" if value is None else _number(value)
        limit = f"{'at most' if bar.is_upper else 'at least'} {bar.limit:g}"
        cells.append((bar.name, shown, limit, verdict, bar.meaning))
    return cells


def _cells(row: Row) -> tuple[str, ...]:
    value = row.value
    spread = f"{_number(value.lowest)} to {_number(value.highest)}" if value.rounds > 1 else "once"
    return row.what, row.size, str(row.count or ""), f"{_number(value.median)} {row.unit}", spread


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10**LONGEST_NUMBER else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _draw(axes: object, rows: Sequence[Row]) -> None:
    for label in dict.fromkeys(f"{row.section}: {row.what}" for row in rows):
        line = sorted((r for r in rows if f"{r.section}: {r.what}" == label), key=lambda r: r.count)
        counts, medians = [r.count for r in line], [r.value.median for r in line]
        style = "--" if "floor" in label else "-"
        axes.plot(counts, medians, style, marker=".", label=label)  # type: ignore[attr-defined]
