"""Judging labelled items: what a program that uses it directly relies on."""

from dataclasses import replace
from pathlib import Path

import pytest

from adjudge_reranker import ModelInfo, RewardClient, TemplateKind
from adjudge_reranker.evaluation.judge import (
    NOT_JUDGED,
    UNREADABLE_IMAGE,
    Judged,
    Question,
    Unanswered,
    UnknownTemplate,
    choose_templates,
    judge_items,
)
from adjudge_reranker.evaluation.records import LabelledScore
from adjudge_reranker.evaluation.report import build_report
from tests.conftest import SEVEN


def scored(number: int, *images: Path | bytes) -> LabelledScore:
    return LabelledScore(
        place=f"line {number + 1}",
        id=number,
        prompt=f"Why {number}?",
        images=images,
        candidate="so",
        score=50.0,
    )


def test_readings_come_in_the_order_of_the_items(client: RewardClient) -> None:
    items = [scored(i) for i in range(50)]
    judged = list(judge_items(client, items, Question()))
    assert [one.item for one in judged] == items
    alone = [client.score(item.prompt, ["so"]).rewards[0] for item in items]
    assert [one.reading.reward for one in judged] == alone


def test_bytes_are_the_picture_that_a_path_names(client: RewardClient) -> None:
    path, data, none = judge_items(
        client, [scored(0, SEVEN), scored(0, SEVEN.read_bytes()), scored(0)], Question()
    )
    assert path.reading == data.reading != none.reading


@pytest.mark.parametrize("content", [None, b""])
def test_a_picture_that_vanished_fails_its_item_alone(
    client: RewardClient, tmp_path: Path, content: bytes | None
) -> None:
    picture = tmp_path / "gone.png"
    if content is not None:
        picture.write_bytes(content)
    gone, good = judge_items(client, [scored(0, picture), scored(1)], Question())
    assert isinstance(gone.reading, Unanswered) and gone.reading.reason == UNREADABLE_IMAGE
    assert isinstance(gone.reading.error, OSError | ValueError)
    assert not isinstance(good.reading, Unanswered)


def test_who_stops_early_ends_the_calls_under_way(client: RewardClient) -> None:
    results = judge_items(client, [scored(i) for i in range(100)], Question())
    next(results)
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError):
        client.score("Why?", ["so"])


def test_a_report_of_nothing_but_failures_has_no_values() -> None:
    report = build_report([Judged(scored(0), Unanswered(NOT_JUDGED))])
    assert report.overall.counts.reasons == {NOT_JUDGED: 1}
    assert report.overall.scores is not None and report.overall.scores.pearson.value is None
    assert report.critics == () and report.subsets == ()


def test_templates_are_those_named_and_else_the_defaults(client: RewardClient) -> None:
    served: ModelInfo = client.model()
    pairwise, pointwise = choose_templates([], served)
    assert pairwise == served.default_template(TemplateKind.PAIRWISE)
    assert pointwise == served.default_template(TemplateKind.POINTWISE)
    other = replace(pointwise, name="other/pointwise")
    both = replace(pairwise, name="other/pointwise")  # kinds may share a name
    model = replace(served, templates=(*served.templates, other))
    assert choose_templates(["other/pointwise"], model) == (pairwise, other)
    model = replace(model, templates=(*model.templates, both))
    assert choose_templates(["other/pointwise"], model) == (both, other)
    with pytest.raises(UnknownTemplate, match=pairwise.name):
        choose_templates(["no such"], model)
    assert choose_templates([], replace(model, templates=())) == (None, None)
