"""RewardBench 2 (allenai/reward-bench-2, arXiv 2506.01937): best of N, scored one by one.

A record has `id`, `prompt`, `chosen`, `rejected` and `subset`; in the subset Ties the id is `ref:n`
or `tied:n`. Where `num_correct` and `num_incorrect` are given, they must be right.
"""

import re
from typing import Final

from adjudge_reranker.evaluation.importers import fields
from adjudge_reranker.evaluation.importers.containers import Placed
from adjudge_reranker.evaluation.importers.fields import FieldError, Folder, Row
from adjudge_reranker.evaluation.records import Item, LabelledGroup

COLUMNS: Final = frozenset(
    {"id", "prompt", "chosen", "rejected", "subset", "num_correct", "num_incorrect"}
)
_TIES_ID = re.compile(r"(ref|tied):(\d+)")


def is_ties(subset: str | None) -> bool:
    """Whether the subset of that name is scored by the formula for ties."""
    return (subset or "").lower() == "ties"


def ties_id(id: str) -> tuple[str, int]:
    """ "ref" or "tied", and the number of the prompt. Raises ValueError."""
    match = _TIES_ID.fullmatch(id)
    if match is None:
        raise ValueError(f"not ref:n or tied:n: {id}")
    return match[1], int(match[2])


def item(placed: Placed, folder: Folder) -> Item:
    """Raises FieldError. There are no pictures, so `folder` is not used."""
    row = placed.row
    found = LabelledGroup(
        place=placed.place,
        id=fields.text(row, "id"),
        subset=fields.text(row, "subset"),
        prompt=fields.text(row, "prompt"),
        chosen=fields.texts(row, "chosen"),
        rejected=fields.texts(row, "rejected"),
    )
    _check_count(row, "num_correct", len(found.chosen))
    _check_count(row, "num_incorrect", len(found.rejected))
    if is_ties(found.subset):
        _check_ties(found)
    return found


def _check_ties(found: LabelledGroup) -> None:
    try:
        kind, _ = ties_id(found.id)
    except ValueError as error:
        raise FieldError("id", "must be ref:n or tied:n in the subset Ties") from error
    if kind == "tied" and len(found.chosen) < 2:
        raise FieldError("chosen", "must have at least two where the id is tied:n")


def _check_count(row: Row, field: str, actual: int) -> None:
    if row.get(field) not in (None, actual):
        raise FieldError(field, f"is not the {actual} responses that there are")
