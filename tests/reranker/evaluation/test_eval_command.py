"""`adjudge eval`, from a file through a real channel to its figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adjudge_reranker import RewardClient
from adjudge_server.serve import Server
from tests.conftest import CROSS, SEVEN
from tests.reranker.evaluation.test_importers import MM, PAIR, RB, SCORE, TIED, VL, parquet
from tests.reranker.evaluation.told import (
    FIRST,
    SECOND,
    TIE,
    Evaluate,
    as_told,
    complaints,
    describes_templates,
    pair,
    score,
)
from tests.reranker.scripted import ScriptedService
from tests.reranker.test_cli import TOO_LONG, invoke, lines

IMAGES = ("--images", SEVEN.parent)


def test_figures_of_pairs_by_hand(told: str, evaluate: Evaluate) -> None:
    rows = [pair(FIRST, "first"), pair(SECOND, "second"), pair(FIRST, "second"), pair(TIE, "tie")]
    result, found, records = evaluate(told, *rows, pair("item OFF_FORMAT", "first"))
    assert result.exit_code == 1
    pairs = found["overall"]["pairs"]
    assert found["overall"]["counts"] == {
        "total": 5,
        "answered": 4,
        "failed": 1,
        "reasons": {"OFF_FORMAT": 1},
    }
    assert (pairs["accuracy"]["value"], pairs["accuracy"]["n"]) == (pytest.approx(2 / 3), 3)
    assert (pairs["three_way_accuracy"]["value"], pairs["three_way_accuracy"]["n"]) == (0.75, 4)
    assert pairs["order_consistency"]["value"] == pytest.approx(2 / 3)
    assert (pairs["ties_called_ties"]["value"], pairs["ties_called_ties"]["n"]) == (1.0, 1)
    assert pairs["position_bias"]["mean"]["value"] == pytest.approx((0.5 + 3.0 + 0.5 + 0.2) / 4)
    # Preferences 0.82, 0.32, 0.82, 0.55 of 1, 0, 0, 1/2; in both orders, over bins of a tenth.
    gap = abs(1.64 - 1) + abs(0.32 - 0) + abs(0.55 - 0.5)
    assert pairs["preference_calibration"]["error"]["value"] == pytest.approx(gap / 4)
    assert found["overall"]["scores"] is None and found["benchmark"] is None
    assert [record.get("margin") for record in records] == [2.0, -1.0, 2.0, 0.1, None]
    assert records[0]["preferred"] == "first" and records[0]["place"] == "line 1"
    assert records[4]["error"]["reason"] == "OFF_FORMAT"
    assert "OFF_FORMAT 1" in result.stdout and "0.667" in result.stdout


def test_rewards_are_put_on_the_labels_scale_by_the_templates_range(
    told: str, evaluate: Evaluate
) -> None:
    rows = [score("1", 10), score("5", 40), score("10", 100), score("7", 90)]
    result, found, records = evaluate(told, *rows)
    figures = found["overall"]["scores"]
    assert result.exit_code == 0
    assert figures["mean_absolute_error"]["value"] == pytest.approx((0 + 10 + 0 + 20) / 4)
    assert figures["reward_calibration"]["error"]["value"] == pytest.approx(30 / 4)
    assert figures["spearman"]["value"] == 1.0
    assert [record["reward"] for record in records] == [1.0, 5.0, 10.0, 7.0]
    assert [record["score"] for record in records] == [10, 40, 100, 90]


def test_each_kind_is_asked_with_its_template(script: ScriptedService, evaluate: Evaluate) -> None:
    script.plan(describes_templates, *[as_told] * 2)
    options = ("--template", "of/scores", "--rubric", "Be kind.")
    result, found, _ = evaluate(
        script.address, pair(FIRST, "first"), score("5", 50), options=options
    )
    assert result.exit_code == 0
    asked = {type(request).__name__: request for request in script.requests[1:]}
    assert asked["CompareCandidatesRequest"].template == "of/pairs"
    assert asked["ScoreCandidatesRequest"].template == "of/scores"
    assert all(request.rubric == "Be kind." for request in asked.values())
    critics = {(one["template"], one["weights_epoch"]) for one in found["critics"]}
    assert critics == {("of/pairs", 3), ("of/scores", 3)}


@pytest.mark.parametrize(
    ("templates", "complaint"),
    [(["of/nothing"], "no template 'of/nothing'"), (["of/pairs", "of/pairs"], "two pairwise")],
)
def test_a_template_that_cannot_be_meant_exits_with_2(
    script: ScriptedService, evaluate: Evaluate, templates: list[str], complaint: str
) -> None:
    script.plan(describes_templates)
    options = [word for name in templates for word in ("--template", name)]
    result, found, _ = evaluate(script.address, PAIR, options=options)
    assert result.exit_code == 2 and not found
    assert complaint in complaints(result) and len(script.requests) == 1


def test_vl_rewardbench_end_to_end(told: str, tmp_path: Path) -> None:
    def row(id: str, told: str, ranking: list[int]) -> dict[str, Any]:
        image = {"bytes": SEVEN.read_bytes(), "path": None}
        own = {"id": id, "response": [told, "x"], "human_ranking": ranking, "image": image}
        return VL | own

    rows = [
        row("wildvision-1", FIRST, [0, 1]),
        row("VLFeedback_2", FIRST, [1, 0]),
        row("hallucination_3", SECOND, [1, 0]),
        row("mmmu_4", SECOND, [1, 0]),
        row("mathverse_5", "item OFF_FORMAT", [1, 0]),
    ]
    figures = tmp_path / "out.json"
    options = ("--layout", "vl-rewardbench", "--json", figures)
    result = invoke(told, "eval", parquet(tmp_path, *rows), *options)
    assert result.exit_code == 1
    found = json.loads(figures.read_text())
    values = {f["name"]: f["estimate"]["value"] for f in found["benchmark"]["figures"]}
    assert values == {
        "general": 0.5,
        "hallucination": 1.0,
        "reasoning": 1.0,
        "overall": 0.75,
        "macro": pytest.approx(2.5 / 3),
    }
    assert found["overall"]["counts"]["reasons"] == {"OFF_FORMAT": 1}
    assert "VL-RewardBench" in result.stdout and "macro" in result.stdout


def test_multimodal_rewardbench_end_to_end(told: str, evaluate: Evaluate) -> None:
    own = {"Image": str(SEVEN), "Output1": FIRST}
    rows = [MM | own | {"Better": "Output1"}, MM | own, MM | own | {"Category": "vqa"}]
    result, found, _ = evaluate(
        told, *rows, name="all_data.json", options=("--layout", "multimodal-rewardbench", *IMAGES)
    )
    assert result.exit_code == 0
    values = {f["name"]: f["estimate"]["value"] for f in found["benchmark"]["figures"]}
    assert values == {
        "overall": pytest.approx(1 / 3),
        "reasoning": 0.5,
        "reasoning/math": 0.5,
        "vqa": 0.0,
    }


def test_rewardbench_2_end_to_end(told: str, evaluate: Evaluate) -> None:
    rows = [
        RB | {"chosen": ["9"], "rejected": ["1", "2", "9"]},
        RB | {"chosen": ["9"], "rejected": ["1", "2", "3"]},
        RB | {"id": "ref:1", "subset": "Ties", "chosen": ["9"], "rejected": ["1", "2", "3"]},
        TIED | {"id": "tied:1", "chosen": ["9", "8"], "rejected": ["1", "2", "3"]},
        TIED | {"id": "tied:2", "chosen": ["1", "8"], "rejected": ["1", "2", "item OFF_FORMAT"]},
    ]
    result, found, _ = evaluate(told, *rows, options=("--layout", "rewardbench-2"))
    figures = {f["name"]: f["estimate"] for f in found["benchmark"]["figures"]}
    ties = 1.0 + 0.01 * 0.999329299739067  # tanh(5 / 1 - 1)
    assert result.exit_code == 1
    assert figures["Math"]["value"] == 0.75
    assert figures["Ties"]["value"] == pytest.approx(ties) and figures["Ties"]["n"] == 2
    assert figures["final"]["value"] == pytest.approx((0.75 + ties) / 2)
    assert found["overall"]["counts"] == {
        "total": 5,
        "answered": 4,
        "failed": 1,
        "reasons": {"OFF_FORMAT": 1},
    }


def test_what_the_fake_critic_says_is_what_is_reported(
    address: str, client: RewardClient, evaluate: Evaluate, tmp_path: Path
) -> None:
    labels = ["first", "second", "tie"] * 10
    rows = [PAIR | {"prompt": f"Why {i}?", "preferred": p} for i, p in enumerate(labels)]
    rows += [SCORE | {"images": [str(SEVEN)]}, SCORE | {"candidate": TOO_LONG}]
    plot = tmp_path / "plot.png"
    result, found, records = evaluate(address, *rows, options=("--plot", plot, *IMAGES))
    margins = [client.compare(r["prompt"], ["so", "no"], [(0, 1)]).margins[0] for r in rows[:30]]
    sign = {"first": 1, "second": -1}
    right = [sign[p] * m > 0 for p, m in zip(labels, margins, strict=True) if p != "tie"]
    assert result.exit_code == 1
    assert [record["margin"] for record in records[:30]] == margins
    assert found["overall"]["pairs"]["accuracy"]["value"] == pytest.approx(sum(right) / 20)
    assert found["overall"]["counts"]["reasons"] == {"INPUT_TOO_LONG": 1}
    assert records[30]["reward"] == client.score([SEVEN, "Why?"], ["so"]).rewards[0]
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height
        assert len(picture.convert("RGB").getcolors(2**24)) > 10


def test_the_embedded_critic_is_right_about_the_seven(
    embedded_server: Server, evaluate: Evaluate
) -> None:
    about = {"prompt": "What this image presents?", "images": [str(SEVEN)]}
    right = "This is a handwritten number seven."
    rows = [
        about | {"candidates": [right, CROSS], "preferred": "first"},
        about | {"candidates": [CROSS, right], "preferred": "second"},
        about | {"candidate": right, "score": 100},
        about | {"candidate": CROSS, "score": 0},
        about | {"chosen": [right], "rejected": [CROSS, ""]},
        about | {"candidate": "word " * 3000, "score": 0},
    ]
    result, found, _ = evaluate(f"127.0.0.1:{embedded_server.port}", *rows, options=IMAGES)
    overall = found["overall"]
    assert result.exit_code == 1
    assert overall["pairs"]["accuracy"]["value"] == 1.0
    assert overall["pairs"]["order_consistency"]["value"] == 1.0
    assert overall["pairs"]["preference_calibration"]["error"]["value"] < 0.3
    assert overall["scores"]["mean_absolute_error"]["value"] < 30
    assert overall["groups"]["best_is_chosen"]["value"] == 1.0
    assert overall["counts"]["reasons"] == {"INPUT_TOO_LONG": 1}


def test_rows_come_from_standard_input_too(address: str) -> None:
    result = invoke(address, "eval", "-", stdin=lines(PAIR, SCORE))
    assert result.exit_code == 0 and "pairwise accuracy" in result.stdout


def test_strangers_words_have_no_power_over_the_terminal(address: str, evaluate: Evaluate) -> None:
    result, _, _ = evaluate(address, PAIR | {"subset": "\x1b[31m[bold]red"})
    assert "\x1b" not in result.stdout and "[bold]" in result.stdout
