"""The original LLaVA-NeXT code's numbers, case by case; see `data/README.md`."""

from pathlib import Path

import pytest

from tests.golden.check import PILLOW_12, Golden

GOLDEN = Golden(Path(__file__).parent / "data", vision_heads=4)


@pytest.mark.parametrize("name", [case["name"] for case in GOLDEN.cases])
def test_it_equals_the_original(name: str) -> None:
    case = next(case for case in GOLDEN.cases if case["name"] == name)
    if GOLDEN.skipped(case):
        pytest.skip("measured with another Pillow than the one installed")
    outcome = GOLDEN.check(case)
    assert outcome.passed, str(outcome)


def test_of_two_pillows_one_is_compared() -> None:
    names = {case["name"]: GOLDEN.skipped(case) for case in GOLDEN.cases}
    for name, skipped in names.items():
        if PILLOW_12 in name:
            assert names[name.replace(PILLOW_12, "__")] != skipped


def test_every_size_lands_where_the_original_puts_it() -> None:
    assert list(GOLDEN.geometry_failures()) == []
