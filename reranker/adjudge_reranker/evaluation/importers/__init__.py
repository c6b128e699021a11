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
from adjudge_reranker.evaluation.importers.containers import Columns, Placed, read_rows
from adjudge_reranker.evaluation.importers.fields import FieldError, Folder
from adjudge_reranker.evaluation.records import BadRecord, Item


class Layout(StrEnum):
    """What the fields of a file are called and mean."""

    ADJUDGE = "adjudge"
    VL_REWARDBENCH = "vl-rewardbench"
    MULTIMODAL_REWARDBENCH = "multimodal-rewardbench"
    REWARDBENCH_2 = "rewardbench-2"


_ITEM: Final[dict[Layout, Callable[[Placed, Folder], Item]]] = {
    Layout.ADJUDGE: adjudge.item,
    Layout.VL_REWARDBENCH: vl_rewardbench.item,
    Layout.MULTIMODAL_REWARDBENCH: multimodal_rewardbench.item,
    Layout.REWARDBENCH_2: rewardbench_2.item,
}

_COLUMNS: Final[dict[Layout, Columns]] = {
    # A misspelt "images" would otherwise be judged without its pictures, and nobody would know.
    Layout.ADJUDGE: Columns(adjudge.COLUMNS, are_all=True),
    Layout.VL_REWARDBENCH: Columns(vl_rewardbench.COLUMNS, are_all=False),
    Layout.MULTIMODAL_REWARDBENCH: Columns(multimodal_rewardbench.COLUMNS, are_all=False),
    Layout.REWARDBENCH_2: Columns(rewardbench_2.COLUMNS, are_all=False),
}


def load_items(
    path: str,
    layout: Layout = Layout.ADJUDGE,
    images: Path | None = None,
    *,
    images_anywhere: bool = False,
) -> tuple[Item, ...]:
    """Every item of a file; at least one.

    Args:
        path: JSON lines, `.json` or `.parquet`; "-" is JSON lines from standard input.
        layout: What the records look like.
        images: The folder that paths of pictures start from; the file's own if None.
        images_anywhere: Whether they may lead out of that folder. What they name is sent to the
            server, so not for files of strangers.

    Raises:
        BadRecord: The file or one of its records is wrong. It names the record and the field.
        MissingExtra: It is parquet, and the library for that is not installed.
    """
    start = images if images is not None else Path() if path == "-" else Path(path).parent
    folder = Folder(start, images_anywhere)
    items = []
    for placed in read_rows(path, _COLUMNS[layout]):
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
    seen: dict[tuple[str, int], str] = {}
    for item in items:
        if not rewardbench_2.is_ties(item.subset):
            continue
        id = rewardbench_2.ties_id(item.id)  # 01 is 1
        if id in seen:
            problem = f"is that of {seen[id]} again"
            raise BadRecord(path, problem, place=item.place, field="id")
        seen[id] = item.place
