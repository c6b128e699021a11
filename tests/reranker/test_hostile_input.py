"""Text that is none, and JSON that is none: refused before anything is judged, by name."""

import json
from pathlib import Path

import pytest

from adjudge_reranker import RewardClient
from adjudge_reranker.cli.jobs import BadInput, Source, read_jobs
from adjudge_reranker.content import to_candidates


def test_a_lone_surrogate_names_its_candidate(address: str) -> None:
    with RewardClient(address) as client, pytest.raises(ValueError, match=r"candidates\[1\]"):
        client.score("What is this?", ["good", "\ud800"])


def test_a_candidate_of_a_wrong_type_names_itself() -> None:
    with pytest.raises(TypeError, match=r"candidates\[1\]"):
        to_candidates(["good", 1])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "line",
    [
        "",
        '{"prompt": "x", "candidates": ["a"], "id": NaN}',
        "[" * 200_000,
        json.dumps({"prompt": "x", "candidates": ["\ud800"]}),
        json.dumps({"prompt": "\ud800", "candidates": ["a"]}),
    ],
)
def test_lines_that_cannot_be_judged_are_bad_input(line: str, tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_text(line)
    with pytest.raises(BadInput):
        read_jobs(Source(None, (), (), None, str(path)))


def test_arguments_that_are_no_text_are_bad_input() -> None:
    with pytest.raises(BadInput):
        read_jobs(Source("x", (), ("\udcff",), None, None))
