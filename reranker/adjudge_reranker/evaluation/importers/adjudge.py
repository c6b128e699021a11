"""The format of Adjudge's own: pairs, scores and groups, told apart by the fields they have."""

from collections.abc import Callable
from typing import Any, Final

from adjudge_reranker.evaluation.importers import fields
from adjudge_reranker.evaluation.importers.containers import Placed
from adjudge_reranker.evaluation.importers.fields import FieldError, Folder
from adjudge_reranker.evaluation.records import (
    Item,
    LabelledGroup,
    LabelledPair,
    LabelledScore,
    Preferred,
)

_SHARED: Final = frozenset({"id", "subset", "cluster", "prompt", "images"})
_PAIR: Final = frozenset({"candidates", "preferred"})
_SCORE: Final = frozenset({"candidate", "score"})
_GROUP: Final = frozenset({"chosen", "rejected"})
COLUMNS: Final = _SHARED | _PAIR | _SCORE | _GROUP


def item(placed: Placed, folder: Folder) -> Item:
    """Raises FieldError."""
    row = placed.row
    own, build = _kind(row)
    # A misspelt "images" would otherwise be judged without its pictures, and nobody would know.
    known = _SHARED | own
    if unknown := sorted(row.keys() - known):
        raise FieldError(unknown[0], f"is not known here; known are {', '.join(sorted(known))}")
    shared = {
        "place": placed.place,
        "id": fields.json_value(row, "id", placed.number),
        "subset": fields.optional_text(row, "subset"),
        "cluster": fields.optional_key(row, "cluster"),
        "prompt": fields.text(row, "prompt"),
        "images": fields.pictures(row, "images", folder),
    }
    return build(row, shared)


_Build = Callable[[fields.Row, dict[str, Any]], Item]


def _kind(row: fields.Row) -> tuple[frozenset[str], _Build]:
    kinds: tuple[tuple[frozenset[str], _Build], ...] = (
        (_PAIR, _pair),
        (_SCORE, _score),
        (_GROUP, _group),
    )
    matching = [(own, build) for own, build in kinds if own & row.keys()]
    if len(matching) != 1:
        raise FieldError(
            None,
            "a record has either candidates and preferred, or candidate and score, "
            "or chosen and rejected",
        )
    return matching[0]


def _pair(row: fields.Row, shared: dict[str, Any]) -> Item:
    candidates = fields.two_texts(row, "candidates")
    preferred = Preferred(fields.one_of(row, "preferred", *Preferred))
    return LabelledPair(**shared, candidates=candidates, preferred=preferred)


def _score(row: fields.Row, shared: dict[str, Any]) -> Item:
    candidate = fields.text(row, "candidate")
    return LabelledScore(**shared, candidate=candidate, score=fields.number(row, "score", 0, 100))


def _group(row: fields.Row, shared: dict[str, Any]) -> Item:
    chosen = fields.texts(row, "chosen")
    return LabelledGroup(**shared, chosen=chosen, rejected=fields.texts(row, "rejected"))
