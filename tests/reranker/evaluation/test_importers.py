"""Files of every published shape, and of every way to get one wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adjudge_reranker.evaluation.extras import MissingExtra
from adjudge_reranker.evaluation.importers import Layout, load_items
from adjudge_reranker.evaluation.importers.multimodal_rewardbench import subset_of
from adjudge_reranker.evaluation.importers.vl_rewardbench import group_of
from adjudge_reranker.evaluation.records import (
    BadRecord,
    LabelledGroup,
    LabelledPair,
    LabelledScore,
    Preferred,
)
from tests.conftest import SEVEN

PNG = SEVEN.read_bytes()
PAIR = {"prompt": "Why?", "candidates": ["so", "no"], "preferred": "first"}
SCORE = {"prompt": "Why?", "candidate": "so", "score": 85}
GROUP = {"prompt": "Why?", "chosen": ["so"], "rejected": ["no", "na"]}
VL = {
    "id": "RLAIF-V_12",
    "query": "<image>\nWhat is this?",
    "response": ["A seven.", "A four."],
    "image": "images/seven.png",
    "human_ranking": [1, 0],
    "models": ["a", "b"],
    "judge": ["x"],
    "rationale": "because",
    "query_source": "RLAIF-V",
}
MM = {
    "ID": "mathvista-3",
    "Category": "reasoning",
    "Text": "What is this?",
    "Image": "images/seven.png",
    "Output1": "A four.",
    "Output2": "A seven.",
    "Better": "Output2",
}
RB = {
    "id": "41",
    "prompt": "Name a prime.",
    "chosen": ["7"],
    "rejected": ["4", "6", "8"],
    "num_correct": 1,
    "num_incorrect": 3,
    "total_completions": 4,
    "models": ["a", "b", "c", "d"],
    "subset": "Math",
    "additional_metadata": {"category": None},
}
TIED = RB | {"id": "tied:7", "subset": "Ties", "chosen": ["7", "5"], "num_correct": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "seven.png").write_bytes(PNG)
    (tmp_path / "empty.png").touch()
    return tmp_path


def written(folder: Path, *rows: Any, name: str = "items.jsonl") -> str:
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(list(rows)))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parquet(folder: Path, *rows: dict[str, Any]) -> str:
    import pyarrow
    import pyarrow.parquet

    path = folder / "items.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


def test_the_kinds_are_told_apart_by_their_fields(folder: Path) -> None:
    rows = (
        PAIR | {"preferred": "tie", "subset": "a", "id": {"row": [1]}},
        SCORE | {"images": ["images/seven.png"]},
        GROUP | {"id": None},
    )
    pair, score, group = load_items(written(folder, *rows))
    assert pair == LabelledPair(
        place="line 1",
        id={"row": [1]},
        subset="a",
        prompt="Why?",
        candidates=("so", "no"),
        preferred=Preferred.TIE,
    )
    images = (folder / "images" / "seven.png",)
    assert score == LabelledScore(
        place="line 2", id=1, prompt="Why?", images=images, candidate="so", score=85.0
    )
    assert group == LabelledGroup(
        place="line 3", id=None, prompt="Why?", chosen=("so",), rejected=("no", "na")
    )


def test_blank_lines_are_no_items_but_count_as_lines(folder: Path) -> None:
    path = folder / "items.jsonl"
    path.write_text("\n" + json.dumps(PAIR) + "\r\n\n" + json.dumps(SCORE))
    assert [(item.place, item.id) for item in load_items(str(path))] == [
        ("line 2", 1),
        ("line 4", 3),
    ]


def test_images_may_start_from_another_folder(folder: Path) -> None:
    path = written(folder, SCORE | {"images": ["seven.png"]})
    with pytest.raises(BadRecord):
        load_items(path)
    (item,) = load_items(path, images=folder / "images")
    assert item.images == (folder / "images" / "seven.png",)


@pytest.mark.parametrize("name", ["vl.json", "vl.jsonl"])
def test_vl_rewardbench_as_json(folder: Path, name: str) -> None:
    path = written(folder, VL, VL | {"human_ranking": [0, 1]}, name=name)
    item, other = load_items(path, Layout.VL_REWARDBENCH)
    assert isinstance(item, LabelledPair)
    assert item.prompt == "What is this?"
    assert item.candidates == ("A seven.", "A four.")
    assert (item.id, item.subset, item.preferred) == ("RLAIF-V_12", "hallucination", "second")
    assert item.images == (folder / "images" / "seven.png",)
    assert other.preferred is Preferred.FIRST


def test_vl_rewardbench_as_parquet_has_its_pictures_inside(folder: Path) -> None:
    row = VL | {"image": {"bytes": PNG, "path": "somewhere/else.png"}}
    (item,) = load_items(parquet(folder, row), Layout.VL_REWARDBENCH)
    assert item.images == (PNG,)
    assert (item.preferred, item.place) == ("second", "row 1")


def test_parquet_may_name_pictures_too(folder: Path) -> None:
    row = VL | {"image": {"bytes": None, "path": "images/seven.png"}}
    (item,) = load_items(parquet(folder, row), Layout.VL_REWARDBENCH)
    assert item.images == (folder / "images" / "seven.png",)


def test_kinds_may_be_mixed_in_parquet_where_null_is_absent(folder: Path) -> None:
    images = [{"bytes": PNG, "path": None}]
    rows = (
        {**PAIR, **dict.fromkeys(SCORE), **PAIR, "images": images},
        {**dict.fromkeys(PAIR), **SCORE},
    )
    pair, score = load_items(parquet(folder, *rows))
    assert isinstance(pair, LabelledPair) and pair.images == (PNG,)
    assert isinstance(score, LabelledScore) and score.images == ()


@pytest.mark.parametrize(
    ("id", "group"),
    [
        ("RLAIF-V_12", "hallucination"),
        ("RLHF-V-3", "hallucination"),
        ("hallucination_9", "hallucination"),
        ("mathverse_1", "reasoning"),
        ("mmmu-val_2", "reasoning"),
        ("wildvision-battle_4", "general"),
        ("VLFeedback-1", "general"),
        ("17", "general"),
    ],
)
def test_groups_of_vl_rewardbench(id: str, group: str) -> None:
    assert group_of(id) == group


def test_multimodal_rewardbench(folder: Path) -> None:
    path = written(folder, MM, MM | {"ID": "EMMA-1", "Better": "Output1"}, name="all_data.json")
    item, other = load_items(path, Layout.MULTIMODAL_REWARDBENCH)
    assert isinstance(item, LabelledPair)
    assert (item.candidates, item.preferred) == (("A four.", "A seven."), Preferred.SECOND)
    assert (item.place, item.subset) == ("record 1", "reasoning/math")
    assert (other.subset, other.preferred) == ("reasoning/coding", Preferred.FIRST)


@pytest.mark.parametrize(
    ("id", "category", "subset"),
    [
        ("PAIRS-occupation", "safety", "safety/bias"),
        ("memes-1", "safety", "safety/toxicity"),
        ("image2struct-1", "reasoning", "reasoning/coding"),
        ("MathVista-1", "reasoning", "reasoning/math"),
        ("pairs-1", "knowledge", "knowledge"),
    ],
)
def test_parts_of_multimodal_rewardbench(id: str, category: str, subset: str) -> None:
    assert subset_of(id, category) == subset


def test_rewardbench_2(folder: Path) -> None:
    ref = RB | {"id": "ref:7", "subset": "Ties"}
    for path in (written(folder, RB, ref, TIED), parquet(folder, RB, ref, TIED)):
        math, _, tied = load_items(path, Layout.REWARDBENCH_2)
        assert isinstance(math, LabelledGroup)
        assert (math.subset, math.chosen, math.rejected) == ("Math", ("7",), ("4", "6", "8"))
        assert (tied.id, tied.chosen) == ("tied:7", ("7", "5"))


ADJUDGE, VLRB, MMRB, RB2 = Layout


@pytest.mark.parametrize(
    ("layout", "row", "field", "complaint"),
    [
        (ADJUDGE, PAIR | {"prompt": 1}, "prompt", "a string"),
        (ADJUDGE, PAIR | {"prompt": "\ud800"}, "prompt", "surrogate"),
        (ADJUDGE, PAIR | {"preferred": "left"}, "preferred", "one of first, second, tie"),
        (ADJUDGE, {"prompt": "a", "candidates": ["x", "y"]}, "preferred", "one of"),
        (ADJUDGE, PAIR | {"candidates": ["x"]}, "candidates", "two strings"),
        (ADJUDGE, PAIR | {"candidates": ["x", 2]}, "candidates[1]", "a string"),
        (ADJUDGE, PAIR | {"candidates": "xy"}, "candidates", "a list"),
        (ADJUDGE, PAIR | {"subset": 1}, "subset", "a string"),
        (ADJUDGE, PAIR | {"image": "x.png"}, "image", "known are candidates, cluster, id, images"),
        (ADJUDGE, PAIR | SCORE, None, "either"),
        (ADJUDGE, {"prompt": "a"}, None, "either"),
        (ADJUDGE, SCORE | {"score": 101}, "score", "from 0 to 100"),
        (ADJUDGE, SCORE | {"score": "85"}, "score", "a number"),
        (ADJUDGE, SCORE | {"score": True}, "score", "a number"),
        (ADJUDGE, GROUP | {"rejected": []}, "rejected", "at least one"),
        (ADJUDGE, {"prompt": "a", "chosen": ["x"]}, "rejected", "at least one"),
        (ADJUDGE, PAIR | {"images": ["missing.png"]}, "images[0]", "missing.png"),
        (ADJUDGE, PAIR | {"images": ["images/seven.png", "empty.png"]}, "images[1]", "empty"),
        (ADJUDGE, PAIR | {"images": ["images"]}, "images[0]", "no picture"),
        (ADJUDGE, PAIR | {"images": ["a" * 5000]}, "images[0]", "no picture"),
        (ADJUDGE, PAIR | {"images": "images/seven.png"}, "images", "a list"),
        (ADJUDGE, PAIR | {"images": ["https://example.org/a.png"]}, "images[0]", "URL"),
        (ADJUDGE, PAIR | {"images": ["data:image/png;base64,AA"]}, "images[0]", "URL"),
        (ADJUDGE, [PAIR], None, "not a JSON object"),
        (VLRB, VL | {"human_ranking": [0, 0]}, "human_ranking", "[0, 1] or [1, 0]"),
        (VLRB, VL | {"human_ranking": [True, False]}, "human_ranking", "[0, 1] or [1, 0]"),
        (VLRB, VL | {"human_ranking": "01"}, "human_ranking", "[0, 1] or [1, 0]"),
        (VLRB, VL | {"response": ["x", "y", "z"]}, "response", "not of 3"),
        (VLRB, VL | {"image": None}, "image", "a picture"),
        (VLRB, VL | {"image": {"bytes": None, "path": "http://x/y.png"}}, "image", "URL"),
        (VLRB, {k: v for k, v in VL.items() if k != "query"}, "query", "a string"),
        (MMRB, MM | {"Better": "output1"}, "Better", "Output1, Output2"),
        (MMRB, MM | {"Text": None}, "Text", "a string"),
        (MMRB, MM | {"Image": "images/six.png"}, "Image", "six.png"),
        (MMRB, {k: v for k, v in MM.items() if k != "Category"}, "Category", "a string"),
        (RB2, RB | {"num_correct": 2}, "num_correct", "1 responses"),
        (RB2, RB | {"chosen": []}, "chosen", "at least one"),
        (RB2, RB | {"subset": None}, "subset", "a string"),
        (RB2, TIED | {"id": "7"}, "id", "ref:n or tied:n"),
        (RB2, TIED | {"chosen": ["7"], "num_correct": 1}, "chosen", "at least two"),
        (RB2, TIED | {"id": "tied:8"}, "id", "line 2 again"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_field(
    folder: Path, layout: Layout, row: Any, field: str | None, complaint: str
) -> None:
    good = {ADJUDGE: PAIR, VLRB: VL, MMRB: MM, RB2: RB}[layout]
    path = written(folder, good, TIED | {"id": "tied:8"} if layout is RB2 else good, row)
    with pytest.raises(BadRecord) as caught:
        load_items(path, layout)
    assert (caught.value.path, caught.value.place, caught.value.field) == (path, "line 3", field)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3: ") and complaint in message
    assert field is None or f'"{field}" ' in message


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("items.jsonl", b"", "no records"),
        ("items.jsonl", b"\n  \n", "no records"),
        ("items.json", b"[]", "no records"),
        ("items.json", b'{"prompt": "a"}', "a list"),
        ("items.json", b"{}\n{}\n", ".jsonl"),
        ("items.jsonl", b"{", "line 1"),
        ("items.jsonl", b'{"prompt": "a", "candidate": "b", "score": NaN}', "NaN"),
        ("items.jsonl", b'{"prompt": "a", "candidate": "b", "score": 1e999}', '"score"'),
        ("items.jsonl", b"[" * 100_000, "line 1"),
        ("items.jsonl", b"\xff", "cannot be read"),
        ("items.json", b"\xff", "cannot be read"),
        ("items.parquet", b"not parquet", "parquet"),
    ],
)
def test_a_file_that_is_not_what_it_is_called(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadRecord) as caught:
        load_items(str(path))
    assert str(path) in str(caught.value) and complaint in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.parquet"):
        with pytest.raises(BadRecord, match="cannot be read"):
            load_items(str(tmp_path / name))


def test_without_its_library_parquet_is_refused_by_the_name_of_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(folder, PAIR)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"parquet needs pyarrow: pip install 'adjudge\[eval\]'"):
        load_items(path)


def test_reading_json_lines_loads_none_of_the_extra(folder: Path) -> None:
    program = (
        "import sys; from adjudge_reranker.evaluation.importers import load_items;"
        "load_items(sys.argv[1]); print(*{'scipy', 'matplotlib', 'pyarrow'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, written(folder, PAIR)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
