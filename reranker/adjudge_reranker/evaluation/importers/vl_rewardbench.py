"""VL-RewardBench (MMInstruction/VL-RewardBench, arXiv 2411.17451): pairs about one picture.

A record has `id`, `query`, `response` (two), `image` and `human_ranking`: the rank of each
response, 0 for the better. Other columns are not read.
"""

import re
from typing import Any, Final

from adjudge_reranker.evaluation.importers import fields
from adjudge_reranker.evaluation.importers.containers import Placed
from adjudge_reranker.evaluation.importers.fields import FieldError, Folder
from adjudge_reranker.evaluation.records import Item, LabelledPair, Preferred

COLUMNS: Final = frozenset({"id", "query", "response", "image", "human_ranking"})
GENERAL: Final = "general"
HALLUCINATION: Final = "hallucination"
REASONING: Final = "reasoning"

_GROUPS: Final = {
    "RLAIF": HALLUCINATION,
    "RLHF": HALLUCINATION,
    "hallucination": HALLUCINATION,  # those of POVID
    "mathverse": REASONING,
    "mmmu": REASONING,
    "wildvision": GENERAL,
}
_PREFERRED: Final = {(0, 1): Preferred.FIRST, (1, 0): Preferred.SECOND}


def group_of(id: str) -> str:
    """The group of an id by what precedes its first "_" or "-", as the benchmark's `cal.py` has it:
    whatever it does not name comes from VLFeedback and is general."""
    return _GROUPS.get(re.split("[_-]", id, maxsplit=1)[0], GENERAL)


def item(placed: Placed, folder: Folder) -> Item:
    """Its subset is its group. Raises FieldError."""
    row = placed.row
    id = fields.text(row, "id")
    return LabelledPair(
        place=placed.place,
        id=id,
        subset=group_of(id),
        # The benchmark's own inference takes this marker out too: the picture is sent as such.
        prompt=fields.text(row, "query").replace("<image>\n", ""),
        images=(fields.picture(row.get("image"), "image", folder),),
        candidates=fields.two_texts(row, "response"),
        preferred=_preferred(row.get("human_ranking")),
    )


def _preferred(ranking: Any) -> Preferred:
    is_ranking = isinstance(ranking, list) and all(type(rank) is int for rank in ranking)
    preferred = _PREFERRED.get(tuple(ranking)) if is_ranking else None
    if preferred is None:
        raise FieldError("human_ranking", "must be [0, 1] or [1, 0]")
    return preferred
