"""The one retry mechanism, with a clock that only sleeping moves."""

import asyncio
import contextlib

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import DeadlineExceeded, RetryPolicy, RewardError, ServerUnavailable
from adjudge_reranker.retry import Budget, run, run_async


class Time:
    """A clock; sleeping takes `overshoot` seconds longer than asked, as it may."""

    def __init__(self, overshoot: float = 0.0) -> None:
        self.now = 100.0
        self.pauses: list[float] = []
        self._overshoot = overshoot

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.pauses.append(seconds)
        self.now += seconds + self._overshoot

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


def unavailable(retry_after: float | None = None) -> ServerUnavailable:
    return ServerUnavailable(
        "busy", code=grpc.StatusCode.UNAVAILABLE, retry_after_seconds=retry_after
    )


def highest(low: float, high: float) -> float:
    return high


backoffs = st.tuples(st.floats(0, 10), st.floats(0, 10)).map(sorted)
waits = st.lists(st.one_of(st.none(), st.floats(0, 30)), max_size=30)


@given(
    timeout=st.floats(0.01, 100),
    backoff=backoffs,
    asked=waits,
    attempt_seconds=st.floats(0, 5),
    fraction=st.floats(0, 1),
)
def test_no_pause_outlasts_the_deadline(timeout, backoff, asked, attempt_seconds, fraction) -> None:
    time = Time()
    end = time.now + timeout
    left = list(asked)
    given_to_attempts: list[float] = []

    def attempt(remaining: float | None) -> str:
        assert remaining is not None and remaining >= 0
        assert remaining == pytest.approx(max(end - time.now, 0))
        given_to_attempts.append(remaining)
        time.now += min(attempt_seconds, remaining)  # as gRPC's own deadline makes it
        if left:
            raise unavailable(left.pop())
        return "done"

    budget = Budget(
        timeout,
        RetryPolicy(*backoff),
        clock=time.clock,
        uniform=lambda low, high: low + fraction * (high - low),
    )
    try:
        assert run(attempt, budget, time.sleep) == "done"
        assert not left
    except ServerUnavailable:
        assert len(given_to_attempts) == len(time.pauses) + 1
    assert time.now <= end + 1e-9


@given(retry_after=st.floats(0, 10), num_failures=st.integers(1, 8))
def test_what_the_server_asks_for_is_the_least_pause(retry_after, num_failures) -> None:
    time = Time()
    errors = [unavailable(retry_after)] * num_failures
    run(fails_with(errors), Budget(None, RetryPolicy(), clock=time.clock), time.sleep)
    assert len(time.pauses) == num_failures
    assert all(pause >= retry_after for pause in time.pauses)


def test_the_bound_of_the_pause_doubles_up_to_its_maximum() -> None:
    time = Time()
    budget = Budget(None, RetryPolicy(0.5, 3.0), clock=time.clock, uniform=highest)
    run(fails_with([unavailable()] * 5), budget, time.sleep)
    assert time.pauses == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_patient_caller_may_fail_ten_thousand_times() -> None:
    time = Time()
    budget = Budget(None, RetryPolicy(), clock=time.clock)
    run(fails_with([unavailable()] * 10_000), budget, time.sleep)
    assert len(time.pauses) == 10_000


def test_the_last_error_is_raised_and_not_a_made_up_one() -> None:
    time = Time()
    errors = [unavailable(), unavailable(9.0)]
    with pytest.raises(ServerUnavailable) as caught:
        run(fails_with(errors), Budget(5.0, RetryPolicy(), clock=time.clock), time.sleep)
    assert caught.value is errors[-1]


def test_oversleeping_leaves_an_attempt_no_time_rather_than_less_than_none() -> None:
    time = Time(overshoot=100.0)
    seen: list[float | None] = []

    def attempt(remaining: float | None) -> None:
        seen.append(remaining)
        raise unavailable()

    budget = Budget(10.0, RetryPolicy(), clock=time.clock, uniform=highest)
    with pytest.raises(ServerUnavailable):
        run(attempt, budget, time.sleep)
    assert seen == [10.0, 0.0]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "UNAVAILABLE"])
def test_only_unavailable_is_repeated(code: grpc.StatusCode) -> None:
    error = RewardError("no", code=code, retry_after_seconds=0.0)
    with pytest.raises(RewardError):
        run(fails_with([error]), Budget(None, RetryPolicy()), sleep=pytest.fail)


def test_other_exceptions_pass_through() -> None:
    def attempt(remaining: float | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(attempt, Budget(None, RetryPolicy()), sleep=pytest.fail)


@given(asked=waits, timeout=st.one_of(st.none(), st.floats(0.01, 100)))
def test_the_asyncio_twin_makes_the_same_pauses(asked, timeout) -> None:
    def attempts(time: Time) -> tuple:
        errors = [unavailable(seconds) for seconds in asked]
        return fails_with(errors), Budget(timeout, RetryPolicy(), clock=time.clock, uniform=highest)

    blocking, other = Time(), Time()
    attempt, budget = attempts(blocking)
    with contextlib.suppress(ServerUnavailable):
        run(attempt, budget, blocking.sleep)

    attempt, budget = attempts(other)

    async def ask(remaining: float | None) -> str:
        return attempt(remaining)

    with contextlib.suppress(ServerUnavailable):
        asyncio.run(run_async(ask, budget, other.sleep_async))
    assert other.pauses == blocking.pauses


@pytest.mark.parametrize(
    "fields",
    [
        {"initial_backoff_seconds": -1.0},
        {"initial_backoff_seconds": 9.0},
        {"max_backoff_seconds": float("inf")},
        {"max_backoff_seconds": float("nan")},
        {"max_attempts": 0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RetryPolicy(**fields)  # type: ignore[arg-type]


def test_a_deadline_that_passes_is_not_repeated() -> None:
    error = DeadlineExceeded("late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(DeadlineExceeded):
        run(fails_with([error]), Budget(None, RetryPolicy()), sleep=pytest.fail)


def fails_with(errors: list):
    """An attempt that raises each of `errors` once, in order, and then succeeds."""
    remaining_errors = iter(errors)

    def attempt(remaining: float | None) -> str:
        error = next(remaining_errors, None)
        if error is not None:
            raise error
        return "done"

    return attempt
