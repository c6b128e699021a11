"""Waiting on a loop for what other threads do."""

import asyncio
import threading
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_server.background import outcomes_of


def settle(future: "Future[int]", outcome: int | Exception | None) -> None:
    """None: somebody cancels it."""
    if outcome is None:
        assert future.cancel()
    elif isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


OUTCOMES = st.lists(st.integers(0, 3) | st.builds(ValueError) | st.none(), max_size=12)


@given(outcomes=OUTCOMES, early=st.integers(0, 12), data=st.data())
def test_every_outcome_stands_in_its_place_whoever_is_done_first(
    outcomes: list[int | Exception | None], early: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(outcomes))))
    futures: list[Future[int]] = [Future() for _ in outcomes]

    async def wait() -> list[int | BaseException]:
        for index in order[:early]:  # before anybody waits
            settle(futures[index], outcomes[index])
        waiting = asyncio.ensure_future(outcomes_of(futures))
        await asyncio.sleep(0)
        others = [
            threading.Thread(target=settle, args=(futures[index], outcomes[index]))
            for index in order[early:]
        ]
        for thread in others:
            thread.start()
        found = await asyncio.wait_for(waiting, 30)
        for thread in others:
            thread.join()
        return found

    found = asyncio.run(wait())
    assert len(found) == len(outcomes)
    for one, outcome in zip(found, outcomes, strict=True):
        if outcome is None:
            assert isinstance(one, asyncio.CancelledError)
        else:
            assert one is outcome or one == outcome


def test_whoever_stops_waiting_cancels_what_has_not_begun() -> None:
    futures: list[Future[int]] = [Future() for _ in range(3)]
    assert futures[0].set_running_or_notify_cancel()

    async def wait() -> None:
        waiting = asyncio.ensure_future(outcomes_of(futures))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(wait())
    assert [future.cancelled() for future in futures] == [False, True, True]


def test_a_future_that_ends_after_the_loop_complains_of_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    late: Future[int] = Future()

    async def leave() -> None:
        waiting = asyncio.ensure_future(outcomes_of([late]))
        await asyncio.sleep(0)
        late.set_running_or_notify_cancel()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(leave())
    late.set_result(1)
    assert not caplog.records
