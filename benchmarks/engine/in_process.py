"""Adjudge's engine in this process, beside the floor and the slow ways, by turns."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from benchmarks.engine import floor
from benchmarks.engine.baselines import BASELINES, ONE_BY_ONE, Baseline, Model
from benchmarks.engine.checkpoint import build, critic_of
from benchmarks.engine.floor import Parts, Work
from benchmarks.engine.questions import (
    Size,
    chain,
    pairwise,
    picture,
    pointwise,
    responses,
    round_robin,
)
from benchmarks.engine.shapes import Shape
from benchmarks.engine.timing import Seconds, timed

from adjudge_server import readout
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import PreparedPrompt

POINTWISE, PAIRWISE, ROUND_ROBIN = "pointwise", "pairwise", "round robin"


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked about one picture. Pairwise, `count` pairs in both orders."""

    size: Size
    kind: str
    count: int


@dataclass(slots=True)
class Timings:
    """Of one case, a number a round."""

    cold: list[Seconds] = field(default_factory=list)
    warm: list[Seconds] = field(default_factory=list)
    prepared: list[Seconds] = field(default_factory=list)
    """Decoding, tiling and tokenising, which are in neither."""
    cold_floor: list[float] = field(default_factory=list)
    """Seconds as `Subject.seconds` counts them, like the next ones."""
    warm_floor: list[float] = field(default_factory=list)
    warm_floor_by_kind: list[float] = field(default_factory=list)
    vision: list[float] = field(default_factory=list)
    prefix: list[float] = field(default_factory=list)
    prefix_tokens: int = 0
    work: Work = field(default_factory=lambda: Work(0, 0, 0))
    """After the prefix, in the last round."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model twice: in the engine, and as transformers runs it."""

    shape: Shape
    critic: LlavaOnevisionCritic
    plain: Model

    @classmethod
    def build(
        cls, shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Subject":
        return cls(
            shape, critic_of(build(shape, device, dtype), shape), build(shape, device, dtype)
        )

    def seconds(self, measured: Seconds) -> float:
        """CPU seconds on a CPU, wall on a GPU."""
        return measured.wall if self.plain.device.type == "cuda" else measured.cpu


def measure(subject: Subject, cases: Sequence[Case], rounds: int) -> dict[Case, Timings]:
    """The floor's parts are measured once a round for each size, before its cases."""
    timings: dict[Case, Timings] = defaultdict(Timings)
    _warm_up(subject, cases[0])
    for round_ in range(rounds):
        parts: dict[Size, tuple[int, Parts]] = {}
        for case in cases:
            _one_round(subject, case, round_, parts, timings[case])
    return dict(timings)


def slow_baselines(
    subject: Subject,
    case: Case,
    baselines: Mapping[str, Baseline] = BASELINES,
    one_by_one: int | None = None,
) -> dict[str, float]:
    """Seconds of each, once. `one_by_one`: see `settings.Settings`."""
    items = ask(subject.critic, case, seed=1)
    found = {}
    for name, run in baselines.items():
        some = items[:one_by_one] if name in ONE_BY_ONE else items
        measured = timed(lambda run=run, some=some: run(subject.plain, some, case.size))
        found[name] = subject.seconds(measured) * len(items) / len(some)
    return found


def largest_difference(subject: Subject, case: Case) -> float:
    """Of the engine's first logits to those of one plain forward each, so that all compute the
    same."""
    items = ask(subject.critic, case, seed=2)
    plain = BASELINES["one forward each"](subject.plain, items, case.size)
    assert isinstance(plain, list)
    differences = []
    for item, logits in zip(items, plain, strict=True):
        ours = torch.from_numpy(subject.critic.next_logits(item))
        differences.append(float((logits.float().cpu()[: len(ours)] - ours).abs().max()))
    return max(differences)


def ask(critic: LlavaOnevisionCritic, case: Case, seed: int) -> list[PreparedPrompt]:
    """Prepared prompts of a case; another picture and other responses for each seed."""
    return _ask(critic, case, picture(case.size, seed), seed)


def end_to_end(critic: LlavaOnevisionCritic, image: bytes, texts: Sequence[str]) -> list[float]:
    """From a file and texts to rewards."""
    items = pointwise(critic, image, texts)
    readings = critic.forward(items)
    return [
        readout.reward(item.template, reading).reward
        for item, reading in zip(items, readings, strict=True)
    ]


def _ask(critic: LlavaOnevisionCritic, case: Case, image: bytes, seed: int) -> list[PreparedPrompt]:
    if case.kind == POINTWISE:
        return pointwise(critic, image, responses(case.count, seed))
    if case.kind == PAIRWISE:
        return pairwise(critic, image, responses(case.count + 1, seed), chain(case.count))
    return pairwise(critic, image, responses(case.count, seed), round_robin(case.count))


def _one_round(
    subject: Subject,
    case: Case,
    round_: int,
    parts: dict[Size, tuple[int, Parts]],
    timings: Timings,
) -> None:
    critic = subject.critic
    critic.forget()
    image = picture(case.size, seed=1000 + round_)
    items: list[PreparedPrompt] = []
    # Other responses than before: only what is about the picture and the question is remembered.
    seeds = 10_000 + 2 * round_, 10_001 + 2 * round_
    timings.prepared.append(timed(lambda: items.extend(_ask(critic, case, image, seeds[0]))))
    others = _ask(critic, case, image, seeds[1])
    known = items[0].shared_tokens
    if case.size not in parts:
        parts[case.size] = known, _floor_parts(subject, items[0], known)
    timings.cold.append(timed(lambda: critic.forward(items)))
    timings.warm.append(timed(lambda: critic.forward(others)))
    _add_floor(subject, timings, parts[case.size], items, known, others)


def _floor_parts(subject: Subject, item: PreparedPrompt, known: int) -> Parts:
    pixels = floor.pixels_of(item, subject.plain)
    return floor.measured(subject.plain, subject.shape, pixels, known)


def _add_floor(
    subject: Subject,
    timings: Timings,
    measured: tuple[int, Parts],
    items: Sequence[PreparedPrompt],
    known: int,
    others: Sequence[PreparedPrompt],
) -> None:
    """`known`: tokens that all prompts share. The measured pass may be of another template, some
    tokens longer or shorter; its rate is what counts."""
    length, parts = measured
    shape, seconds = subject.shape, subject.seconds
    vision, prefix = seconds(parts.vision), seconds(parts.prefix)
    prefix_here = floor.suffix_seconds(floor.prefix_work(known), length, prefix, shape)
    cold, warm = floor.work_after(items, known), floor.work_after(others, known)
    cold_suffix = floor.suffix_seconds(cold, length, prefix, shape)
    timings.cold_floor.append(vision + prefix_here + cold_suffix)
    timings.warm_floor.append(floor.suffix_seconds(warm, length, prefix, shape))
    timings.warm_floor_by_kind.append(
        floor.suffix_seconds_by_kind(warm, length, prefix, seconds(parts.attention), shape)
    )
    timings.vision.append(vision)
    timings.prefix.append(prefix_here)
    timings.prefix_tokens, timings.work = known, warm


def _warm_up(subject: Subject, case: Case) -> None:
    """The first pass of a process pays for what is set up once."""
    items = ask(subject.critic, Case(case.size, POINTWISE, 1), seed=0)
    works: list[Callable[[], object]] = [
        lambda: subject.critic.forward(items),
        lambda: _floor_parts(subject, items[0], 64),
    ]
    for work in works:
        work()
