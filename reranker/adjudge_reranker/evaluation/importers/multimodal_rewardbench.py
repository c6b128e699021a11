"""Multimodal RewardBench (facebookresearch/multimodal_rewardbench, arXiv 2502.14191).

`all_data.json` is a list of `ID`, `Category`, `Text`, `Image` (a path beside the file), `Output1`,
`Output2` and `Better`. The released file lacks texts and pictures; the benchmark's own download
script completes it, and what is still missing afterwards is refused here by name.
"""

from typing import Final

from adjudge_reranker.evaluation.importers import fields
from adjudge_reranker.evaluation.importers.containers import Placed
from adjudge_reranker.evaluation.importers.fields import Folder
from adjudge_reranker.evaluation.records import Item, LabelledPair, Preferred

COLUMNS: Final = frozenset({"ID", "Category", "Text", "Image", "Output1", "Output2", "Better"})


def subset_of(id: str, category: str) -> str:
    """The category, with the sub-split that the benchmark's `2_get_accuracy.py` gives it: safety is
    bias or toxicity, reasoning is math or coding, by how the id begins."""
    if category == "safety":
        return f"safety/{'bias' if id.lower().startswith('pairs') else 'toxicity'}"
    if category == "reasoning":
        return f"reasoning/{'math' if id.lower().startswith('math') else 'coding'}"
    return category


def item(placed: Placed, folder: Folder) -> Item:
    """Raises FieldError."""
    row = placed.row
    id = fields.text(row, "ID")
    better = fields.one_of(row, "Better", "Output1", "Output2")
    return LabelledPair(
        place=placed.place,
        id=id,
        subset=subset_of(id, fields.text(row, "Category")),
        prompt=fields.text(row, "Text"),
        images=(fields.picture(row.get("Image"), "Image", folder),),
        candidates=(fields.text(row, "Output1"), fields.text(row, "Output2")),
        preferred=Preferred.FIRST if better == "Output1" else Preferred.SECOND,
    )
