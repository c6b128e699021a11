"""Moments and distributions against what numpy says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_server.observing.histogram import Histogram, steps
from adjudge_server.observing.window import SLOT_SECONDS, WINDOW_SECONDS, Moments, Window

NUMBERS = st.lists(st.floats(-1e6, 1e6), max_size=40)


def moments(values: list[float]) -> Moments:
    found = Moments()
    for value in values:
        found.add(value)
    return found


@given(NUMBERS, NUMBERS)
def test_moments_of_two_sets_are_those_of_both_together(a: list[float], b: list[float]) -> None:
    merged = moments(a)
    merged.merge(moments(b))
    assert merged.n == len(a + b)
    if a + b:
        scale = max(map(abs, a + b))
        assert merged.mean == pytest.approx(np.mean(a + b), rel=1e-9, abs=1e-9 * scale)
        assert merged.deviation == pytest.approx(np.std(a + b), rel=1e-6, abs=1e-7 * scale)
    else:
        assert math.isnan(merged.deviation)


def test_a_small_spread_about_a_large_mean_is_not_lost() -> None:
    found = moments([1e9 + 1, 1e9 + 2, 1e9 + 3])
    assert found.deviation == pytest.approx(math.sqrt(2 / 3))


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(-10, 10)), min_size=1, max_size=60))
def test_a_window_holds_the_last_ten_minutes(steps_and_values: list[tuple[float, float]]) -> None:
    now = 0.0
    window = Window(lambda: now)
    told: list[tuple[float, float]] = []
    for step, value in steps_and_values:
        now += step
        window.now.values.add(value)
        told.append((now, value))
    found = window.last().values
    surely = sum(time > now - WINDOW_SECONDS + SLOT_SECONDS for time, _ in told)
    perhaps = sum(time > now - WINDOW_SECONDS - SLOT_SECONDS for time, _ in told)
    assert surely <= found.n <= perhaps
    last_minute = window.last(60.0).values.n
    assert last_minute <= sum(time > now - 60.0 - SLOT_SECONDS for time, _ in told)


@given(st.lists(st.floats(-5, 105), max_size=60))
def test_buckets_are_cumulative_and_hold_their_bounds(values: list[float]) -> None:
    found = Histogram(steps(0.0, 100.0))
    for value in values:
        found.add(value)
    for name, count in found.buckets():
        assert count == sum(value <= float(name) for value in values)
    assert found.count == len(values)
