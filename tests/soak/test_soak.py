"""The short form of `python -m tests.soak`: too short to say how memory grows."""

import asyncio

import pytest

from tests.soak.run import WHO, Soaked, soak


@pytest.fixture(scope="module")
def found() -> Soaked:
    return asyncio.run(soak(30.0, 60, 8, print))


@pytest.mark.soak
def test_whatever_callers_do_every_answer_is_right_or_a_typed_failure(found: Soaked) -> None:
    assert found.tally.wrong == []
    assert found.tally.untyped == []
    assert found.tally.num_checked > 20
    assert {who for who, _ in found.tally.counts} >= WHO, "all of them were there"
    assert found.tally.counts["burst", "QUEUE_FULL"], "there was too much at once"


@pytest.mark.soak
def test_a_server_has_nothing_left_of_callers_that_are_gone(found: Soaked) -> None:
    assert found.is_alive
    assert found.complaints == ()
    assert not found.ended.is_at_work
    assert found.ended.tasks <= found.warm.tasks
    assert found.ended.threads <= found.warm.threads
    assert found.ended.files <= found.warm.files, found.ended.open_files
