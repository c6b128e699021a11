"""From files to labelled items. Everything is checked before anything is judged."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from adjudge_reranker.evaluation.importers import (
    adjudge,
    multimodal_rewardbench,
    rewardbench_2,
    vl_rewardbench,
)
from adjudge_reranker.evaluation.importers.containers import Placed, read_rows
from adjudge_reranker.evaluation.importers.fields import FieldError
from adjudge_reranker.evaluation.records import BadRecord, Item


class Layout(StrEnum):
    """What the fields of a file are called and mean."""

    ADJUDGE = "adjudge"
    VL_REWARDBENCH = "vl-rewardbench"
    MULTIMODAL_REWARDBENCH = "multimodal-rewardbench"
    REWARDBENCH_2 = "rewardbench-2"


_ITEM: Final[dict[Layout, Callable[[Placed, Path], Item]]] = {
    Layout.ADJUDGE: adjudge.item,
    Layout.VL_REWARDBENCH: vl_rewardbench.item,
    Layout.MULTIMODAL_REWARDBENCH: multimodal_rewardbench.item,
    Layout.REWARDBENCH_2: rewardbench_2.item,
}


def load_items(
    path: str, layout: Layout = Layout.ADJUDGE, images: Path | None = None
) -> tuple[Item, ...]:
    """Every item of a file; at least one.

    Args:
        path: JSON lines, `.json` or `.parquet`; "-" is JSON lines from standard input.
        layout: What the records look like.
        images: The folder that paths of pictures start from; the file's own if None.

    Raises:
        BadRecord: The file or one of its records is wrong. It names the record and the field.
        MissingExtra: It is parquet, and the library for that is not installed.
    """
    folder = images if images is not None else Path() if path == "-" else Path(path).parent
    items = []
    for placed in read_rows(path):
        try:
            items.append(_ITEM[layout](placed, folder))
        except FieldError as error:
            raise BadRecord(path, error.problem, place=placed.place, field=error.field) from error
    if not items:
        raise BadRecord(path, "there are no records in it")
    if layout is Layout.REWARDBENCH_2:
        _check_ties_are_unique(path, items)
    return tuple(items)


def _check_ties_are_unique(path: str, items: list[Item]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if not rewardbench_2.is_ties(item.subset):
            continue
        if item.id in seen:
            problem = f"is that of {seen[item.id]} again"
            raise BadRecord(path, problem, place=item.place, field="id")
        seen[item.id] = item.place
