"""How much memory requests may hold before the queue, and who gets it."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.errors import LimitExceeded, QueueFull
from adjudge_server.open_bytes import OpenBytes, Share


def taken(whole: OpenBytes, caller: str, num_bytes: int) -> Share | None:
    try:
        return whole.open(caller, num_bytes)
    except (QueueFull, LimitExceeded):
        return None


sizes = st.integers(0, 50)
callers = st.sampled_from("abc")


@settings(deadline=None)
@given(
    steps=st.lists(st.tuples(callers, sizes, st.booleans()), max_size=60), bound=st.integers(1, 200)
)
def test_requests_never_hold_more_than_the_bound_and_what_is_over_holds_nothing(
    steps: list[tuple[str, int, bool]], bound: int
) -> None:
    whole = OpenBytes(bound)
    shares: list[Share] = []
    for caller, size, ends in steps:
        if ends and shares:
            shares.pop(size % len(shares)).__exit__()
        elif (share := taken(whole, caller, size)) is not None:
            shares.append(share)
        assert whole.total == sum(share.num_bytes for share in shares)
        assert whole.total <= bound
    for share in shares:
        share.__exit__()
    assert whole.total == 0


def test_a_request_that_is_alone_may_have_it_all_and_no_more() -> None:
    whole = OpenBytes(10)
    with whole.open("a", 4) as share:
        share.add(6)
        with pytest.raises(LimitExceeded) as refused:
            share.add(1)
        told = {"limit": "max_open_bytes", "maximum": "10"}
        assert refused.value.metadata == {**told, "actual": "11"}
        with pytest.raises(QueueFull) as full:
            whole.open("b", 1)
        assert full.value.metadata == told
    assert taken(whole, "b", 1)
    with pytest.raises(LimitExceeded):
        whole.open("c", 11)


@settings(deadline=None, max_examples=6)
@given(num_greedy=st.integers(1, 6))
def test_greedy_callers_get_equal_parts_and_leave_one_for_whoever_comes_anew(
    num_greedy: int,
) -> None:
    whole = OpenBytes(42_000)
    names = [f"greedy {i}" for i in range(num_greedy)]
    held = dict.fromkeys(names, 0)
    for _ in range(2000):
        for name in names:
            if taken(whole, name, 100):
                held[name] += 100
    fair = 42_000 / (num_greedy + 1)
    assert all(abs(bytes_ - fair) <= 100 * num_greedy for bytes_ in held.values())
    assert taken(whole, "newcomer", int(fair) - 100 * num_greedy)


def test_a_refused_addition_changes_nothing_and_the_request_goes_on() -> None:
    whole = OpenBytes(100)
    with whole.open("a", 20) as a, whole.open("b", 20) as b:
        with pytest.raises(QueueFull):
            a.add(61)
        assert whole.total == 40
        b.add(20)
        assert whole.total == 60
    assert whole.total == 0


def test_a_thread_that_still_works_for_a_request_that_is_over_takes_nothing_for_ever() -> None:
    whole = OpenBytes(100)
    with whole.open("a", 10) as share:
        pass
    with pytest.raises(QueueFull):
        share.add(10)
    assert whole.total == 0


def test_threads_lose_no_byte() -> None:
    whole = OpenBytes(1000)

    def work(name: str) -> None:
        for _ in range(300):
            if (share := taken(whole, name, 7)) is not None:
                with share:
                    try:
                        share.add(100)
                    except QueueFull:
                        continue

    threads = [threading.Thread(target=work, args=(f"{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole.total == 0
