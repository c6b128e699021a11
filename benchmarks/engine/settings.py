"""How much is measured."""

from dataclasses import dataclass, replace

from benchmarks.engine.in_process import PAIRWISE, POINTWISE, ROUND_ROBIN, Case
from benchmarks.engine.questions import Size
from benchmarks.engine.shapes import MEASURED, TINY, Shape

SMALL_PICTURE, LARGE_PICTURE = (384, 384), (1024, 768)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one run. The bars are about `large`, `few` and `many`."""

    shape: Shape
    cases: tuple[Case, ...]
    baselines: tuple[Case, ...]
    """Once each; they are slow."""
    one_by_one: int | None
    """Of the responses to a baseline that takes one after the other, how many it is timed with; the
    others count as much. None: all."""
    small: Size
    large: Size
    few: int
    many: int
    rounds: int
    served_rounds: int
    embedded_requests: int
    """Of each client."""
    embedded_batches: int
    generated_batches: int
    """Random ones for each way of caching; the generated critic's prompts are long, and slow."""
    generated_tokens: int
    """Of the critiques that `generate` writes."""


def _grid(sizes: tuple[Size, ...], counts: tuple[int, ...]) -> tuple[Case, ...]:
    return tuple(Case(s, kind, n) for s in sizes for kind in (POINTWISE, PAIRWISE) for n in counts)


BOTH = (SMALL_PICTURE, LARGE_PICTURE)
_ROUND_ROBIN = Case(LARGE_PICTURE, ROUND_ROBIN, 8)

FULL = Settings(
    shape=MEASURED,
    cases=(*_grid(BOTH, (1, 4, 8, 16, 64)), _ROUND_ROBIN),
    baselines=tuple(Case(size, POINTWISE, n) for size in BOTH for n in (1, 8)),
    one_by_one=None,
    small=SMALL_PICTURE,
    large=LARGE_PICTURE,
    few=8,
    many=64,
    rounds=5,
    served_rounds=5,
    embedded_requests=100,
    embedded_batches=500,
    generated_batches=10,
    generated_tokens=64,
)
QUICK = replace(
    FULL,
    cases=(
        Case(SMALL_PICTURE, POINTWISE, 8),
        Case(LARGE_PICTURE, POINTWISE, 8),
        Case(LARGE_PICTURE, POINTWISE, 64),
        _ROUND_ROBIN,
    ),
    baselines=(Case(LARGE_PICTURE, POINTWISE, 8),),
    one_by_one=1,
    rounds=2,
    served_rounds=1,
    embedded_requests=20,
    embedded_batches=30,
    generated_batches=0,
)
SMALLEST = Settings(
    shape=TINY,
    cases=(
        Case((48, 48), POINTWISE, 1),
        Case((96, 64), POINTWISE, 1),
        Case((96, 64), POINTWISE, 2),
        Case((96, 64), ROUND_ROBIN, 2),
    ),
    baselines=tuple(Case((96, 64), POINTWISE, n) for n in (1, 2)),
    one_by_one=1,
    small=(48, 48),
    large=(96, 64),
    few=1,
    many=2,
    rounds=1,
    served_rounds=1,
    embedded_requests=1,
    embedded_batches=1,
    generated_batches=1,
    generated_tokens=2,
)
"""Shows that the code runs; its numbers mean nothing."""
