"""The queue and its one thread, with a forward pass that does as it is told."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.batcher import Batcher, Caller
from adjudge_server.critic import Reading, SomeFailed
from adjudge_server.errors import (
    AdjudgeError,
    CriticFailure,
    DeadlineExceeded,
    NotReady,
    OffFormat,
    QueueFull,
)

PATIENCE = 20.0
"""Seconds after which a test gives up on something that should have happened."""


@dataclass(frozen=True)
class Item:
    name: str
    own_tokens: int = 1
    shared_tokens: int = 0
    group: str = "group"
    image_tokens: int = 0


@dataclass
class Model:
    """Remembers its batches, fails at the items it is told to fail at."""

    failures: dict[str, Exception] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    now: float = 0.0
    seconds_a_batch: float = 0.0

    def clock(self) -> float:
        return self.now

    def forward(self, batch: Sequence[Item]) -> list[Reading]:
        self.batches.append([item.name for item in batch])
        self.threads.add(threading.get_ident())
        self.now += self.seconds_a_batch
        for item in batch:
            if item.name in self.failures:
                raise self.failures[item.name]
        return [reading(item.name) for item in batch]


def reading(name: str) -> Reading:
    """A reading that tells whose it is."""
    return Reading(-1.0, np.frombuffer(name.encode(), np.uint8).astype(np.float64), 1)


def name_of(answer: Reading) -> str:
    return bytes(answer.answer_log_probs.astype(np.uint8)).decode()


@contextmanager
def batching(
    model: Model,
    *,
    max_batch_tokens: int = 100,
    max_queue_tokens: int = 1000,
    enough_tokens: int | None = None,
) -> Iterator[Batcher[Item]]:
    batcher: Batcher[Item] = Batcher(
        model.forward,
        max_batch_tokens=max_batch_tokens,
        max_queue_tokens=max_queue_tokens,
        enough_tokens=enough_tokens,
        clock=model.clock,
    )
    try:
        yield batcher
    finally:
        batcher.close()


@contextmanager
def held(batcher: Batcher[Item]) -> Iterator[None]:
    """Keeps the model's thread busy, so that what is submitted meanwhile waits together."""
    release, taken = threading.Event(), threading.Event()

    def wait() -> None:
        taken.set()
        release.wait(PATIENCE)

    done = batcher.call(wait)
    assert taken.wait(PATIENCE)
    try:
        yield
    finally:
        release.set()
        done.result(PATIENCE)


def items(names: str, own_tokens: int = 1) -> list[Item]:
    return [Item(name, own_tokens) for name in names]


# Batches ------------------------------------------------------------------------------------------


def test_each_item_gets_its_own_reading_in_order() -> None:
    model = Model()
    with batching(model, max_batch_tokens=2) as batcher:
        futures = batcher.submit(items("abcde"))
        assert [name_of(f.result(PATIENCE).reading) for f in futures] == list("abcde")


def test_a_request_without_items_waits_for_nothing() -> None:
    model = Model()
    with batching(model) as batcher:
        assert batcher.submit([]) == []
    assert model.batches == []


def test_requests_that_wait_together_are_answered_together() -> None:
    model = Model()
    with batching(model) as batcher, held(batcher):
        batcher.submit(items("ab"))
        batcher.submit(items("c"))
    (batch,) = model.batches
    assert sorted(batch) == ["a", "b", "c"]


def test_a_batch_with_enough_takes_no_further_request_and_none_apart() -> None:
    model = Model()
    with batching(model, enough_tokens=4) as batcher, held(batcher):
        for names in ("abc", "de", "fghi", "o"):
            batcher.submit(items(names), Caller(names))
    assert [set(batch) for batch in model.batches] == [set("abcde"), set("fghi"), set("o")]


def test_enough_is_counted_without_what_is_shared() -> None:
    model = Model()
    with batching(model, enough_tokens=2) as batcher, held(batcher):
        batcher.submit([Item("a", 1, group="one", shared_tokens=40)])
        batcher.submit([Item("b", 1, group="two", shared_tokens=40)])
        batcher.submit(items("c"))
    assert [set(batch) for batch in model.batches] == [set("ab"), set("c")]


def cost(batch: Sequence[Item]) -> int:
    """Tokens of a batch, what a group shares counted once."""
    shared = {item.group: item.shared_tokens for item in batch}
    return sum(item.own_tokens for item in batch) + sum(shared.values())


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.sampled_from("xyz")), max_size=14),
    budget=st.integers(1, 30),
)
def test_batches_keep_the_order_fill_the_budget_and_count_a_shared_prefix_once(
    sizes: list[tuple[int, str]], budget: int
) -> None:
    shared = {"x": 0, "y": 3, "z": 10}
    queue = [Item(f"{i}", own, shared[group], group) for i, (own, group) in enumerate(sizes)]
    model = Model()
    with batching(model, max_batch_tokens=budget) as batcher:
        with held(batcher):
            futures = batcher.submit(queue)
        for future in futures:
            future.result(PATIENCE)
    batches = [[queue[int(name)] for name in batch] for batch in model.batches]
    assert [item for batch in batches for item in batch] == queue
    for batch in batches:
        assert cost(batch) <= budget or len(batch) == 1, "only an item too large for any runs alone"
    for batch, following in pairwise(batches):
        assert cost([*batch, following[0]]) > budget, "no room is left unused"


def test_a_prefix_shared_across_requests_is_counted_once() -> None:
    model = Model()
    with batching(model, max_batch_tokens=12) as batcher, held(batcher):
        batcher.submit([Item("a", 1, 10)])
        batcher.submit([Item("b", 1, 10)])
        batcher.submit([Item("c", 1, 10, group="another")])
    assert model.batches == [["a", "b"], ["c"]]


# The queue's bound --------------------------------------------------------------------------------


def test_a_request_that_does_not_fit_is_refused_whole() -> None:
    model = Model()
    with batching(model, max_queue_tokens=10) as batcher, held(batcher):
        batcher.submit(items("a", 6), Caller("one"))
        with pytest.raises(QueueFull) as refused:
            batcher.submit(items("bc", 3), Caller("another"))
        assert refused.value.metadata["maximum"] == "10"
        assert batcher.queued_tokens == 6
        batcher.submit(items("d", 4), Caller("another"))
        assert batcher.queued_tokens == 10
    assert model.batches == [["a", "d"]]
    assert batcher.queued_tokens == 0


@given(st.integers(1, 5), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_however_greedy_others_are_there_is_room_for_who_comes_anew(
    num_greedy: int, tokens: int
) -> None:
    """Each of n takes what it can get, which leaves 1 / (n + 1) of the queue."""
    with batching(Model(), max_queue_tokens=1000) as batcher, held(batcher):
        refused: set[int] = set()
        while len(refused) < num_greedy:
            for greedy in range(num_greedy):
                try:
                    batcher.submit(items("a", tokens), Caller(f"greedy {greedy}"))
                except QueueFull:
                    refused.add(greedy)
        before = batcher.queued_tokens
        assert before > 1000 / 2 - 2 * tokens
        batcher.submit(items("b", 1000 // (num_greedy + 1) - tokens), Caller("new"))
        assert batcher.queued_tokens > before or 1000 // (num_greedy + 1) == tokens


def test_what_a_caller_holds_is_given_back_however_it_ends() -> None:
    model = Model({"d": ValueError("bad")})
    caller = Caller("a caller", deadline=0.0)
    with batching(model, max_queue_tokens=100) as batcher:
        with held(batcher):
            cancelled, *_ = batcher.submit(items("abc", 3), Caller("a caller"))
            cancelled.cancel()
            batcher.submit(items("d", 3), Caller("another"))
            batcher.submit(items("e", 3), caller)
        batcher.call(lambda: None).result(PATIENCE)
        batcher.call(lambda: None).result(PATIENCE)
        assert (batcher.queued_tokens, batcher._room.held) == (0, {})
        with pytest.raises(CriticFailure), held(batcher):
            batcher.submit(items("f", 3), caller)
            batcher.abandon(CriticFailure("over"), refusal="over")
        assert (batcher.queued_tokens, batcher._room.held) == (0, {})


def test_who_was_refused_is_refused_at_once_until_something_has_left_the_queue() -> None:
    def caller(name: str, size: int) -> Caller:
        return Caller(name, size=size)

    with batching(Model(), max_queue_tokens=10) as batcher:
        with held(batcher):
            batcher.submit(items("a", 8), caller("one", 800))
            batcher.check_room(caller("one", 800))
            for size in (300, 200, 400):
                with pytest.raises(QueueFull):
                    batcher.submit(items("b", 3), caller("one", size))
            for size in (200, 201, 900):
                with pytest.raises(QueueFull) as refused:
                    batcher.check_room(caller("one", size))
                assert refused.value.metadata["maximum"] == "10"
            batcher.check_room(caller("one", 199))
            batcher.check_room(caller("another", 900))
            with pytest.raises(QueueFull):  # one that is not compared
                batcher.submit(items("b", 3), caller("third", 0))
            batcher.check_room(caller("third", 1))
        batcher.call(lambda: None).result(PATIENCE)
        batcher.call(lambda: None).result(PATIENCE)
        batcher.check_room(caller("one", 200))


def test_what_is_dropped_makes_room_for_who_was_refused() -> None:
    with batching(Model(), max_queue_tokens=10) as batcher, held(batcher):
        (given_up,) = batcher.submit(items("a", 8), Caller("one", size=800))
        with pytest.raises(QueueFull):
            batcher.submit(items("b", 3), Caller("two", size=300))
        given_up.cancel()
        batcher.submit(items("c", 9), Caller("three", size=900))
        batcher.check_room(Caller("two", size=300))


def test_an_empty_queue_accepts_any_request() -> None:
    model = Model()
    with batching(model, max_queue_tokens=10) as batcher, held(batcher):
        (future,) = batcher.submit(items("a", 1000))
        with pytest.raises(QueueFull):
            batcher.submit(items("b"))
    assert name_of(future.result(PATIENCE).reading) == "a"


def test_a_full_queue_does_not_refuse_a_request_that_needs_nothing() -> None:
    """One whose candidates were all malformed: its errors are known already."""
    with batching(Model(), max_queue_tokens=10) as batcher, held(batcher):
        batcher.submit(items("a", 1000))
        assert batcher.submit([]) == []


def test_what_was_given_up_makes_room_when_its_turn_comes() -> None:
    with batching(Model(), max_queue_tokens=10) as batcher:
        with held(batcher):
            (future,) = batcher.submit(items("a", 10))
            future.cancel()
        batcher.call(lambda: None).result(PATIENCE)
        assert batcher.queued_tokens == 0


def test_what_was_cancelled_makes_room_for_the_living() -> None:
    model = Model()
    with batching(model, max_queue_tokens=10) as batcher, held(batcher):
        for future in batcher.submit(items("abc", 3)):
            future.cancel()
        batcher.submit(items("d", 9))
        with pytest.raises(QueueFull):
            batcher.submit(items("e", 9))
    assert model.batches == [["d"]]


# Given up -----------------------------------------------------------------------------------------


def test_what_was_cancelled_is_never_computed() -> None:
    model = Model()
    with batching(model) as batcher, held(batcher):
        futures = batcher.submit(items("abc"))
        assert futures[1].cancel()
    assert model.batches == [["a", "c"]]
    with pytest.raises(CancelledError):
        futures[1].result(0)


def test_a_batch_that_was_all_given_up_is_not_computed_and_the_next_is() -> None:
    model = Model()
    with batching(model) as batcher:
        with held(batcher):
            for future in batcher.submit(items("ab")):
                future.cancel()
        (future,) = batcher.submit(items("c"))
        assert name_of(future.result(PATIENCE).reading) == "c"
    assert model.batches == [["c"]]


def test_what_is_past_its_deadline_fails_and_is_never_computed() -> None:
    model = Model(now=100.0)
    with batching(model) as batcher, held(batcher):
        (late,) = batcher.submit(items("l"), Caller("", 100.5))
        (just,) = batcher.submit(items("j"), Caller("", 101.0))
        (early,) = batcher.submit(items("e"), Caller("", 101.5))
        (patient,) = batcher.submit(items("p"))
        model.now = 101.0
    for future in (late, just):
        with pytest.raises(DeadlineExceeded):
            future.result(PATIENCE)
    assert name_of(early.result(PATIENCE).reading) == "e"
    assert name_of(patient.result(PATIENCE).reading) == "p"
    assert model.batches == [["e", "p"]]


def test_what_was_given_up_takes_no_room_in_a_batch() -> None:
    model = Model()
    with batching(model, max_batch_tokens=10) as batcher, held(batcher):
        _, given_up, _ = batcher.submit([Item("a", 5), Item("b", 5, 50, "b"), Item("c", 5)])
        given_up.cancel()
    assert [name for batch in model.batches for name in batch] == ["a", "c"]


# Failures -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(bad=st.sets(st.sampled_from("abcdef")), budget=st.integers(1, 6))
def test_an_exception_costs_only_the_items_that_cause_it(bad: set[str], budget: int) -> None:
    model = Model(failures={name: ZeroDivisionError(f"secret {name}") for name in bad})
    with batching(model, max_batch_tokens=budget) as batcher:
        with held(batcher):
            futures = batcher.submit(items("abcdef"))
        for name, future in zip("abcdef", futures, strict=True):
            if name not in bad:
                assert name_of(future.result(PATIENCE).reading) == name
                continue
            with pytest.raises(CriticFailure) as failed:
                future.result(PATIENCE)
            assert "secret" not in failed.value.message
            assert "ZeroDivisionError" in failed.value.message


def test_the_batch_after_a_failed_one_is_answered() -> None:
    model = Model(failures={"a": RuntimeError()})
    with batching(model) as batcher:
        (failed,) = batcher.submit(items("a"))
        assert isinstance(failed.exception(PATIENCE), CriticFailure)
        (future,) = batcher.submit(items("b"))
        assert name_of(future.result(PATIENCE).reading) == "b"


def test_a_typed_failure_of_the_critic_stays_what_it_is() -> None:
    model = Model(failures={"a": OffFormat("not my format")})
    with batching(model) as batcher:
        (failed,) = batcher.submit(items("a"))
        assert failed.exception(PATIENCE) is model.failures["a"]


@pytest.mark.parametrize("wrong", [0, 1, 2, 5])
def test_a_wrong_number_of_readings_answers_nobody(wrong: int) -> None:
    def forward(batch: Sequence[Item]) -> list[Reading]:
        return [reading("?")] * (len(batch) + 1 if wrong == 1 else 0 if wrong == 0 else wrong)

    batcher: Batcher[Item] = Batcher(forward, max_batch_tokens=100, max_queue_tokens=100)
    with held(batcher):
        futures = batcher.submit(items("abc"))
    for future in futures:
        assert isinstance(future.exception(PATIENCE), CriticFailure)
    batcher.close()


def test_items_that_the_critic_confuses_together_are_answered_alone() -> None:
    def forward(batch: Sequence[Item]) -> list[Reading]:
        return [reading(batch[0].name)]

    batcher: Batcher[Item] = Batcher(forward, max_batch_tokens=100, max_queue_tokens=100)
    with held(batcher):
        futures = batcher.submit(items("abc"))
    assert [name_of(f.result(PATIENCE).reading) for f in futures] == list("abc")
    batcher.close()


# Other work on the model's thread -----------------------------------------------------------------


def test_a_call_runs_on_the_thread_that_runs_batches() -> None:
    model = Model()
    with batching(model) as batcher:
        (first,) = batcher.submit(items("a"))
        thread = batcher.call(threading.get_ident)
        (last,) = batcher.submit(items("b"))
        first.result(PATIENCE), last.result(PATIENCE)
        assert model.threads == {thread.result(PATIENCE)} != {threading.get_ident()}


def test_calls_and_batches_take_turns() -> None:
    """Whoever makes one call after another gets one between two batches, and holds up none."""
    model = Model()
    seen: list[int] = []

    def step(batcher: Batcher[Item]) -> None:
        seen.append(len(model.batches))
        if len(seen) < 20:
            batcher.call(lambda: step(batcher))

    with batching(model, max_batch_tokens=1) as batcher:
        with held(batcher):
            futures = batcher.submit(items("abcdefghij"))
            batcher.call(lambda: step(batcher))
        for future in futures:
            future.result(PATIENCE)
    assert seen[:9] == list(range(seen[0], seen[0] + 9))


# Turns --------------------------------------------------------------------------------------------


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    model = Model()
    with batching(model, max_batch_tokens=10) as batcher:
        with held(batcher):
            batcher.submit([Item(f"large {i}", 5) for i in range(40)], Caller("one"))
            (small,) = batcher.submit([Item("small", 5)], Caller("other"))
            (own,) = batcher.submit([Item("own", 5)], Caller("one"))
        small.result(PATIENCE), own.result(PATIENCE)
    assert "small" in model.batches[0]
    assert "own" in [name for batch in model.batches[:2] for name in batch]


# Memory -------------------------------------------------------------------------------------------


def test_out_of_memory_forgets_then_halves_and_loses_nothing() -> None:
    forgotten: list[int] = []
    sizes: list[int] = []

    def forward(batch: Sequence[Item]) -> list[Reading]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise MemoryError
        return [reading(item.name) for item in batch]

    batcher: Batcher[Item] = Batcher(
        forward, max_batch_tokens=99, max_queue_tokens=99, forget=lambda: forgotten.append(1)
    )
    with held(batcher):
        futures = batcher.submit(items("abcdefg"))
    assert [name_of(f.result(PATIENCE).reading) for f in futures] == list("abcdefg")
    assert len(forgotten) == 1
    assert sizes == [7, 7, 4, 2, 2, 3, 2, 1]
    batcher.close()


def test_memory_that_forgetting_frees_is_enough() -> None:
    full = [True]

    def forward(batch: Sequence[Item]) -> list[Reading]:
        if full[0]:
            raise MemoryError
        return [reading(item.name) for item in batch]

    batcher: Batcher[Item] = Batcher(
        forward,
        max_batch_tokens=99,
        max_queue_tokens=99,
        forget=lambda: full.__setitem__(0, False),
    )
    (future,) = batcher.submit(items("a"))
    assert name_of(future.result(PATIENCE).reading) == "a"
    batcher.close()


def test_a_call_that_raises_fails_its_future_and_nothing_else() -> None:
    with batching(Model()) as batcher:
        failed = batcher.call(lambda: 1 // 0)
        assert isinstance(failed.exception(PATIENCE), ZeroDivisionError)
        assert batcher.call(lambda: 7).result(PATIENCE) == 7


def test_a_call_that_was_cancelled_does_not_run() -> None:
    ran: list[str] = []
    with batching(Model()) as batcher:
        with held(batcher):
            batcher.call(lambda: ran.append("cancelled")).cancel()
            kept = batcher.call(lambda: ran.append("kept"))
        kept.result(PATIENCE)
    assert ran == ["kept"]


# Closing and measuring ----------------------------------------------------------------------------


def test_close_finishes_what_was_accepted_and_then_refuses() -> None:
    model = Model()
    with batching(model, max_batch_tokens=1) as batcher:
        with held(batcher):
            futures = batcher.submit(items("abc"))
            called = batcher.call(lambda: "done")
            closing = threading.Thread(target=batcher.close)
            closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        assert [name_of(f.result(0).reading) for f in futures] == list("abc")
        assert called.result(0) == "done"
        with pytest.raises(NotReady):
            batcher.submit(items("d"))
        with pytest.raises(NotReady):
            batcher.call(lambda: None)
    assert model.batches == [["a"], ["b"], ["c"]]


def test_times_are_those_of_waiting_and_of_the_whole_batch() -> None:
    model = Model(now=10.0, seconds_a_batch=0.5)
    with batching(model, max_batch_tokens=2) as batcher:
        with held(batcher):
            futures = batcher.submit(items("abc"))
            model.now = 12.0
        answers = [future.result(PATIENCE) for future in futures]
    assert [a.queue_seconds for a in answers] == [2.0, 2.0, 2.5]
    assert [a.inference_seconds for a in answers] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("outcomes", "has_succeeded"),
    [
        ([CriticFailure("ours"), CriticFailure("ours")], False),
        ([CriticFailure("ours"), OffFormat("the item's")], True),
        ([OffFormat("the item's"), OffFormat("the item's")], True),
        ([CriticFailure("ours"), reading("b")], True),
        ([Reading(float("nan"), np.zeros(1), 1), CriticFailure("ours")], False),
    ],
    ids=["all ours", "one the item's", "all the items'", "one answered", "no measurement"],
)
def test_a_batch_of_which_nothing_came_by_our_fault_is_told_as_failed(
    outcomes: list[Reading | AdjudgeError], has_succeeded: bool
) -> None:
    def forward(_: Sequence[Item]) -> list[Reading]:
        raise SomeFailed(outcomes)

    told: list[tuple[int, bool]] = []
    batcher: Batcher[Item] = Batcher(
        forward,
        max_batch_tokens=100,
        max_queue_tokens=100,
        watch=lambda num_items, _tokens, _seconds, succeeded: told.append((num_items, succeeded)),
    )
    futures = batcher.submit(items("ab"))
    for future, outcome in zip(futures, outcomes, strict=True):
        error = future.exception(PATIENCE)
        assert type(error) is (type(outcome) if isinstance(outcome, AdjudgeError) else type(None))
    batcher.close(PATIENCE)
    assert told == [(2, has_succeeded)]
