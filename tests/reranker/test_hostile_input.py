"""Text, numbers and JSON that are none: refused before anything is judged, by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adjudge_reranker import AsyncRewardClient, RewardClient
from adjudge_reranker.cli.jobs import BadInput, Source, read_jobs
from adjudge_reranker.content import to_candidates


def test_a_lone_surrogate_names_its_candidate(address: str) -> None:
    with RewardClient(address) as client, pytest.raises(ValueError, match=r"candidates\[1\]"):
        client.score("What is this?", ["good", "\ud800"])


def test_a_candidate_of_a_wrong_type_names_itself() -> None:
    with pytest.raises(TypeError, match=r"candidates\[1\]"):
        to_candidates(["good", 1])  # type: ignore[list-item]


no_naturals = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=2**64),
    st.floats(),
    st.text(max_size=3),
    st.none(),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wrong=no_naturals, side=st.sampled_from(["first", "second"]))
def test_an_index_that_is_none_names_its_pair(address: str, wrong: Any, side: str) -> None:
    pair = (wrong, 0) if side == "first" else (0, wrong)
    with RewardClient(address) as client:
        for ask in (client.compare, client.critique):
            with pytest.raises((TypeError, ValueError), match=rf"pairs\[1\]\.{side}"):
                ask("What is this?", ["a", "b"], [(0, 1), pair])


@pytest.mark.parametrize("pair", [(), (0,), (0, 1, 2), 7, None])
def test_what_is_no_pair_names_itself(address: str, pair: Any) -> None:
    told = pytest.raises((TypeError, ValueError), match=r"pairs\[1\]")
    with RewardClient(address) as client, told:
        client.compare("What is this?", ["a", "b"], [(0, 1), pair])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wrong=no_naturals.filter(lambda value: value is not None))
def test_a_number_that_is_none_names_its_argument(address: str, wrong: Any) -> None:
    with RewardClient(address) as client:
        with pytest.raises((TypeError, ValueError), match="max_critique_tokens"):
            client.critique("What is this?", ["a"], max_critique_tokens=wrong)
        with pytest.raises((TypeError, ValueError), match="expected_epoch"):
            client.score("What is this?", ["a"], expected_epoch=wrong)


def test_the_asynchronous_client_names_the_same() -> None:
    client = AsyncRewardClient()
    with pytest.raises(ValueError, match=r"pairs\[0\]\.second"):
        client.critique("What is this?", ["a"], [(0, -1)])
    with pytest.raises(ValueError, match="max_critique_tokens"):
        client.critique("What is this?", ["a"], max_critique_tokens=-1)


def test_integers_of_numpy_are_integers(address: str) -> None:
    pairs = [tuple(pair) for pair in np.array([[0, 1], [1, 0]])]
    with RewardClient(address) as client:
        there, back = client.compare("What is this?", ["a", "b"], pairs).margins
    assert there is not None and there == -(back or 0)


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
