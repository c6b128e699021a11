"""Files that strangers wrote: what they hold or name must neither crash the command nor leak."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from adjudge_reranker import RewardClient
from adjudge_reranker.evaluation.importers import Layout, load_items
from adjudge_reranker.evaluation.judge import (
    NOT_AN_IMAGE,
    Question,
    Unanswered,
    is_image,
    judge_items,
)
from adjudge_reranker.evaluation.records import BadRecord
from tests.conftest import SEVEN
from tests.reranker.evaluation.test_importers import MM, PAIR, RB, SCORE, TIED, VL, parquet, written
from tests.reranker.evaluation.test_judge import scored
from tests.reranker.evaluation.told import Evaluate, score
from tests.reranker.scripted import ScriptedService

SECRET = b"root:x:0:0:"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture, beside a secret and a folder of almost the same name."""
    (folder := tmp_path / "data").mkdir()
    (folder / "seven.png").write_bytes(SEVEN.read_bytes())
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "seven.png").write_bytes(SEVEN.read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret")
    return folder


def bad(path: str, layout: Layout = Layout.ADJUDGE, **more: Any) -> BadRecord:
    with pytest.raises(BadRecord) as caught:
        load_items(path, layout, **more)
    return caught.value


@pytest.mark.parametrize("id", ["1e999", "-1e999", '{"a": [1e999]}'])
def test_an_id_that_json_cannot_repeat_is_named(tmp_path: Path, id: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f'{{"prompt": "a", "candidate": "b", "score": 1, "id": {id}}}\n')
    error = bad(str(path))
    assert (error.place, error.field) == ("line 1", "id") and "JSON" in str(error)


@pytest.mark.parametrize(
    "id", [datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1), b"id", float("nan")]
)
def test_nor_may_an_id_in_parquet(tmp_path: Path, id: Any) -> None:
    error = bad(parquet(tmp_path, SCORE | {"id": id}))
    assert (error.place, error.field) == ("row 1", "id")


@pytest.mark.parametrize(
    "image",
    [
        "../secret",
        "./../data/../secret",
        "/etc/passwd",
        "link.png",
        "../data2/seven.png",
        "\0",
        "..",
    ],
)
def test_no_path_leads_out_of_the_folder(folder: Path, image: str) -> None:
    error = bad(written(folder, PAIR | {"images": [image]}))
    assert (error.place, error.field) == ("line 1", "images[0]")
    assert "--images-anywhere" in str(error)


def test_the_published_layouts_are_held_to_it_too(folder: Path) -> None:
    for layout, row, field in (
        (Layout.VL_REWARDBENCH, VL | {"image": "../secret"}, "image"),
        (Layout.VL_REWARDBENCH, VL | {"image": {"bytes": None, "path": "../secret"}}, "image"),
        (Layout.MULTIMODAL_REWARDBENCH, MM | {"Image": "../secret"}, "Image"),
    ):
        assert bad(written(folder, row), layout).field == field


def test_paths_within_or_anywhere_are_as_good_as_they_were(folder: Path) -> None:
    inside = [str(folder / "seven.png"), "../data/seven.png"]
    assert len(load_items(written(folder, PAIR | {"images": inside}))[0].images) == 2
    path = written(folder, PAIR | {"images": ["../data2/seven.png"]})
    assert load_items(path, images_anywhere=True)[0].images == (folder / "../data2/seven.png",)
    assert "--images-anywhere" in str(bad(path, images=folder))
    assert load_items(written(folder, PAIR | {"images": ["data2/seven.png"]}), images=folder.parent)


def test_the_flag_allows_pictures_anywhere_but_sends_only_pictures(
    told: str, script: ScriptedService, evaluate: Evaluate, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    rows = [score("5", 50, images=[str(SEVEN)]), score("6", 60, images=["secret"])]
    refused, _, _ = evaluate(told, *rows)
    assert refused.exit_code == 2 and not script.requests
    result, found, records = evaluate(told, *rows, options=["--images-anywhere"])
    assert result.exit_code == 1
    assert found["overall"]["counts"]["reasons"] == {NOT_AN_IMAGE: 1}
    assert (records[0]["reward"], records[1]["error"]["kind"]) == (5.0, "NotAnImage")
    assert len(script.requests) == 2
    assert not any(SECRET in request.SerializeToString() for request in script.requests)


def test_bytes_that_are_no_picture_fail_their_item_alone(client: RewardClient) -> None:
    items = [scored(0, b"<svg/>"), scored(1, SEVEN, SECRET), scored(2, SEVEN.read_bytes())]
    text, second, good = (one.reading for one in judge_items(client, items, Question()))
    assert isinstance(text, Unanswered) and text.reason == NOT_AN_IMAGE
    assert isinstance(second, Unanswered) and second.reason == NOT_AN_IMAGE
    assert not isinstance(good, Unanswered)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_picture_that_the_server_reads_is_one(tmp_path: Path, format: str) -> None:
    from PIL import Image

    Image.new("RGB", (3, 2)).save(tmp_path / "picture", format)
    assert is_image((tmp_path / "picture").read_bytes())
    assert not is_image(b"RIFF\0\0\0\0WAVE") and not is_image(b"%PDF-1.7")


def nanoseconds(folder: Path, rows: list[dict[str, Any]], column: str) -> str:
    import pyarrow
    import pyarrow.parquet

    times = pyarrow.array([1] * len(rows), pyarrow.timestamp("ns"))  # datetime has no such value
    table = pyarrow.Table.from_pylist(rows)
    if column in table.column_names:
        table = table.drop_columns(column)
    path = folder / "items.parquet"
    pyarrow.parquet.write_table(table.append_column(column, times), path)
    return str(path)


def test_a_column_that_python_has_no_values_for_is_named(tmp_path: Path) -> None:
    error = bad(nanoseconds(tmp_path, [SCORE], "id"))
    assert (error.place, error.field) == ("row 1", "id")
    error = bad(nanoseconds(tmp_path, [RB], "prompt"), Layout.REWARDBENCH_2)
    assert (error.place, error.field) == ("row 1", "prompt")


def test_columns_that_a_layout_does_not_need_are_not_read(tmp_path: Path) -> None:
    path = nanoseconds(tmp_path, [RB], "when")
    assert load_items(path, Layout.REWARDBENCH_2)[0].id == "41"
    image = {"bytes": SEVEN.read_bytes(), "path": None}
    path = nanoseconds(tmp_path, [VL | {"image": image}], "judge")
    assert load_items(path, Layout.VL_REWARDBENCH)[0].images == (SEVEN.read_bytes(),)


def test_but_a_column_that_may_be_misspelt_is_refused(tmp_path: Path) -> None:
    assert bad(nanoseconds(tmp_path, [SCORE], "image")).field == "image"


@pytest.mark.parametrize("id", ["tied:07", "tied:007"])
def test_ids_of_ties_are_compared_as_numbers(tmp_path: Path, id: str) -> None:
    error = bad(written(tmp_path, TIED, TIED | {"id": id}), Layout.REWARDBENCH_2)
    assert (error.place, error.field) == ("line 2", "id") and "line 1 again" in str(error)
