"""The rule of `python -m tests.server.fuzz` for what grows."""

import random

import pytest

from tests.server.fuzz.growth import GROWTH, has_grown, medians

MIB = 1 << 20
LOOKS = 200
"""Of a run of a million requests."""


def noisy(base: float, per_look: float, seed: int) -> list[float]:
    """Bytes; 3 MiB of noise and now and then a maximum that says nothing."""
    choose = random.Random(seed)
    return [
        base + per_look * look + choose.uniform(0, 3 * MIB) + (choose.random() < 0.05) * 40 * MIB
        for look in range(LOOKS)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_of_25_bytes_a_request_is_noticed_in_a_million(seed: int) -> None:
    assert has_grown(noisy(80 * MIB, 25 * 1_000_000 / LOOKS, seed), GROWTH)


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_a_maximum_at_the_end_are_no_growth(seed: int) -> None:
    level = noisy(80 * MIB, 0.0, seed)
    level[-1] += 200 * MIB
    assert not has_grown(level, GROWTH)


def test_caches_that_fill_in_the_first_half_are_no_growth() -> None:
    filled = [min(60.0 + look, 140.0) for look in range(LOOKS)]
    assert not has_grown(filled, GROWTH)


def test_a_thread_that_is_left_now_and_then_is_growth() -> None:
    assert has_grown([13 + look // 20 for look in range(LOOKS)], 1.0, 2)
    assert not has_grown([13 + look % 3 for look in range(LOOKS)], 1.0, 2)


def test_every_value_lies_in_one_tenth() -> None:
    assert medians(range(95)) == sorted(medians(range(95))) and len(medians(range(95))) == 10
    assert medians([3.0]) == [3.0] and medians([]) == []
