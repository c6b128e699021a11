"""Turns: shares, order, and that nobody waits for ever."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.fair_queue import MAX_GONE, FairQueue

Thing = tuple[str, int, int, int]
"""Client, request, place in the request, cost."""
REQUESTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 9), min_size=1, max_size=12)),
    min_size=1,
    max_size=12,
)
QUANTA = st.sampled_from([0, 1, 5, 30])


def filled(requests: list[tuple[str, list[int]]], quantum: int = 0) -> FairQueue[Thing]:
    queue: FairQueue[Thing] = FairQueue(quantum)
    for number, (client, costs) in enumerate(requests):
        queue.add(client, [(client, number, place, cost) for place, cost in enumerate(costs)])
    return queue


def drain(queue: FairQueue[Thing]) -> list[Thing]:
    taken = []
    while queue:
        following = queue.next
        taken.append(queue.pop(following[3]))
        assert taken[-1] == following
    return taken


@given(REQUESTS, QUANTA)
def test_everything_is_taken_once_and_each_request_in_order(
    requests: list[tuple[str, list[int]]], quantum: int
) -> None:
    queue = filled(requests, quantum)
    waiting = sorted(queue)
    taken = drain(queue)
    assert sorted(taken) == waiting
    for number in range(len(requests)):
        places = [thing[2] for thing in taken if thing[1] == number]
        assert places == sorted(places)


@given(REQUESTS, QUANTA)
def test_clients_that_wait_are_never_far_apart(
    requests: list[tuple[str, list[int]]], quantum: int
) -> None:
    """By no more than the largest cost and two turns, one of the client and one of its request, as
    long as both have something that waits."""
    queue = filled(requests, quantum)
    left = Counter(thing[0] for thing in queue)
    given_to: Counter[str] = Counter()
    while queue:
        thing = queue.pop(queue.next[3])
        given_to[thing[0]] += thing[3]
        left[thing[0]] -= 1
        waiting = [given_to[client] for client, count in left.items() if count]
        assert not waiting or max(waiting) - min(waiting) <= 9 + 2 * quantum


@given(REQUESTS, QUANTA)
def test_a_request_that_fits_in_a_turn_is_not_taken_apart(
    requests: list[tuple[str, list[int]]], quantum: int
) -> None:
    order = [thing[1] for thing in drain(filled(requests, quantum))]
    for number, (_, costs) in enumerate(requests):
        if sum(costs) <= quantum:
            first = order.index(number)
            assert order[first : first + len(costs)] == [number] * len(costs)


@given(st.integers(1, 50))
def test_who_comes_later_has_no_turns_saved_up(head_start: int) -> None:
    queue: FairQueue[Thing] = FairQueue()
    queue.add("old", [("old", 0, place, 1) for place in range(100)])
    for _ in range(head_start):
        queue.pop(1)
    queue.add("new", [("new", 1, place, 1) for place in range(100)])
    following = Counter(queue.pop(1)[0] for _ in range(20))
    assert abs(following["old"] - following["new"]) <= 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 4), QUANTA)
@settings(deadline=None)
def test_who_comes_back_as_soon_as_it_is_served_gets_no_more_than_who_waits(
    costs: list[int], num_others: int, quantum: int
) -> None:
    """A client that has one request at a time, and asks again at once, beside others with much."""
    others = [str(number) for number in range(num_others)]
    queue: FairQueue[Thing] = FairQueue(quantum)
    for number, client in enumerate(others):
        queue.add(client, [(client, number, place, 3) for place in range(300)])
    given_to: Counter[str] = Counter()
    for number in range(num_others, 150):
        if all(thing[0] != "back" for thing in queue):
            queue.add("back", [("back", number, place, c) for place, c in enumerate(costs)])
        thing = queue.pop(queue.next[3])
        given_to[thing[0]] += thing[3]
    amounts = [given_to[client] for client in ("back", *others)]
    assert max(amounts) - min(amounts) <= 9 + 2 * max(quantum, sum(costs))


def test_clients_that_are_gone_for_good_are_forgotten() -> None:
    queue: FairQueue[Thing] = FairQueue(5)
    queue.add("always", [("always", 0, place, 1) for place in range(3000)])
    for number in range(1000):
        queue.add(f"once {number}", [(f"once {number}", number, 0, 1)])
        queue.pop(queue.next[3])
        queue.pop(queue.next[3])
    assert len(queue._gone) <= 2 * len(queue._clients) + MAX_GONE


def test_a_small_request_of_the_same_client_does_not_wait_for_its_large_one() -> None:
    queue: FairQueue[Thing] = FairQueue()
    queue.add("a", [("a", 0, place, 1) for place in range(100)])
    queue.add("a", [("a", 1, 0, 1)])
    assert 1 in [queue.pop(1)[1] for _ in range(2)]


@given(REQUESTS, QUANTA, st.sampled_from("abc"), st.integers(0, 5))
def test_what_is_not_kept_is_gone_and_the_rest_has_its_turns(
    requests: list[tuple[str, list[int]]], quantum: int, unwanted: str, num_taken: int
) -> None:
    queue = filled(requests, quantum)
    taken = [queue.pop(queue.next[3]) for _ in range(min(num_taken, len(list(queue))))]
    queue.keep(lambda thing: thing[0] != unwanted and thing[2] % 2 == 0)
    expected = sorted(
        (client, number, place, cost)
        for number, (client, costs) in enumerate(requests)
        for place, cost in enumerate(costs)
        if client != unwanted and place % 2 == 0 and (client, number, place, cost) not in taken
    )
    assert sorted(drain(queue)) == expected
    queue.add(unwanted, [(unwanted, 0, 0, 1)])
    assert queue.pop(1)[0] == unwanted


def test_nobody_is_remembered_once_everything_that_waited_is_dropped() -> None:
    queue: FairQueue[Thing] = FairQueue()
    queue.add("stays", [("stays", 0, place, 1) for place in range(3)])
    queue.add("goes", [("goes", 1, 0, 1)])
    while any(thing[0] == "goes" for thing in queue):
        queue.pop(queue.next[3])
    assert "goes" in queue._gone
    queue.keep(lambda _: False)
    assert queue._gone == {}
