"""Groups to values: what is asked of the server about each, and how failures are met.

Knows no trainer; `trl`, `verl` and `openrlhf` adapt it.
"""

import asyncio
import itertools
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import grpc

from adjudge_reranker.aio import AsyncRewardClient
from adjudge_reranker.client import RewardClient
from adjudge_reranker.errors import RewardError, ServerFault
from adjudge_reranker.in_order import IN_FLIGHT, in_order
from adjudge_reranker.trainers.failures import OnFailure, Patience, explain, is_mistake, may_pass
from adjudge_reranker.trainers.samples import Group, Sample, grouped
from adjudge_reranker.types import CompareResult, Failure, Readout, ScoreResult

_logger = logging.getLogger(__name__)


class Measure(StrEnum):
    """What the value of a completion is."""

    REWARD = "reward"
    """Its reward by a pointwise template, in the template's range."""
    PREFERENCE = "preference"
    """Its mean preference against the others of its group, in [0, 1]: every pair of the group is
    compared, in both orders. Relative to the company: its mean over a group is 1/2 whatever the
    group is worth."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A completion's value."""

    value: float
    """Finite; higher is better."""
    valid_mass: float | None = None
    """Probability of any well-formed answer, in [0, 1]; of several comparisons, their mean."""


Outcome: TypeAlias = Judgement | Failure | None
"""None, for a preference in a group of one: nothing failed, there is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of the server, the same for every completion. Picklable."""

    measure: Measure = Measure.REWARD
    template: str | None = None
    rubric: str | None = None
    model: str | None = None
    readout: Readout = Readout.DIRECT
    strip_thinking: bool = False
    """Judge what follows `</think>` rather than the whole completion. Off by default, because a
    critic that is not shown the thinking cannot mind what is in it."""
    on_failure: OnFailure = OnFailure.NONE
    max_wait_seconds: float | None = 600.0
    """How long a batch waits for its server under `wait`, to which the client's own timeout comes
    for the last request; None for ever. Keep it below the time after which the other processes of
    a distributed run give up (often 1800 s)."""

    def __post_init__(self) -> None:
        # Strings are taken too: trainers' configuration files have no enums.
        object.__setattr__(self, "measure", Measure(self.measure))
        object.__setattr__(self, "readout", Readout(self.readout))
        object.__setattr__(self, "on_failure", OnFailure(self.on_failure))
        Patience(self.max_wait_seconds)  # raises ValueError now rather than in the middle of a run


def judge(
    client: RewardClient, samples: Sequence[Sample | Failure], settings: Settings
) -> list[Outcome]:
    """One outcome a sample, in order: groups are one request each, several at a time.

    Raises RewardError if the settings are wrong, or under `wait` if the server stayed away.
    """
    patience = Patience(settings.max_wait_seconds)

    def judge_group(group: Group) -> list[Outcome]:
        for attempt in itertools.count(1):
            try:
                outcomes = _outcomes(_ask(client, group, settings), group)
            except RewardError as error:
                outcomes = _all_failed(error, group)
            pause = _pause(outcomes, settings, patience, attempt)
            if pause is None:
                break
            patience.sleep(pause)
        return outcomes

    groups = _asked(samples, settings)
    return _scattered(samples, list(in_order(judge_group, groups, patience.stop)))


async def judge_async(
    client: AsyncRewardClient, samples: Sequence[Sample | Failure], settings: Settings
) -> list[Outcome]:
    """The same, without blocking the event loop."""
    patience = Patience(settings.max_wait_seconds)
    places = asyncio.Semaphore(IN_FLIGHT)

    async def judge_group(group: Group) -> tuple[Group, list[Outcome]]:
        async with places:
            for attempt in itertools.count(1):
                try:
                    outcomes = _outcomes(await _ask(client, group, settings), group)
                except RewardError as error:
                    outcomes = _all_failed(error, group)
                pause = _pause(outcomes, settings, patience, attempt)
                if pause is None:
                    break
                await asyncio.sleep(pause)
        return group, outcomes

    tasks = [asyncio.create_task(judge_group(group)) for group in _asked(samples, settings)]
    try:
        return _scattered(samples, await asyncio.gather(*tasks))
    finally:  # not a TaskGroup, which would raise an ExceptionGroup
        for task in tasks:
            task.cancel()


def mean_preferences(result: CompareResult, pairs: Sequence[tuple[int, int]]) -> list[Outcome]:
    """Of each candidate that occurs in `pairs`, by index, the mean of P(it wins) + P(tie) / 2.

    A candidate fails if none of its comparisons was made, or if one is missing that could be made
    later: those of its siblings that have all theirs would be measured against other company. A
    comparison that never can be, because its other candidate cannot be judged, is left out.
    """
    size = 1 + max(max(pair) for pair in pairs)
    preferences: list[list[float]] = [[] for _ in range(size)]
    masses: list[list[float]] = [[] for _ in range(size)]
    failures: list[Failure | None] = [None] * size
    unfinished = [False] * size
    for (first, second), outcome in zip(pairs, result.outcomes, strict=True):
        for index in (first, second):
            if isinstance(outcome, Failure):
                if failures[index] is None or may_pass(outcome.error):
                    failures[index] = outcome
                unfinished[index] = unfinished[index] or may_pass(outcome.error)
                continue
            preference = outcome.preference if index == first else 1.0 - outcome.preference
            preferences[index].append(preference)
            if outcome.valid_mass is not None:
                masses[index].append(outcome.valid_mass)
    return [
        _judgement(statistics.fmean(own), statistics.fmean(mass) if mass else None)
        if own and not open_
        else failure
        for own, mass, failure, open_ in zip(preferences, masses, failures, unfinished, strict=True)
    ]


def first_failure(outcomes: Sequence[Outcome]) -> RewardError | None:
    """The first error, with a note of how many failures there are and why; None if there are
    none."""
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failure)]
    if not errors:
        return None
    reasons = ", ".join(sorted({explain(error) for error in errors}))
    errors[0].add_note(f"{len(errors)} of {len(outcomes)} completions have no reward: {reasons}")
    return errors[0]


def _asked(samples: Sequence[Sample | Failure], settings: Settings) -> list[Group]:
    groups = grouped(samples)
    if settings.measure is Measure.PREFERENCE:
        return [group for group in groups if len(group.indices) > 1]
    return groups


def _ask(client: Any, group: Group, settings: Settings) -> Any:
    """The result of either client's call: of the asynchronous one, something to await."""
    options = {
        "template": settings.template,
        "reference": group.reference,
        "rubric": settings.rubric,
        "model": settings.model,
        "readout": settings.readout,
    }
    if settings.measure is Measure.REWARD:
        return client.score(group.prompt, group.answers, **options)
    return client.compare(group.prompt, group.answers, _pairs(group), **options)


def _pairs(group: Group) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(len(group.answers)), 2))


def _outcomes(result: ScoreResult | CompareResult, group: Group) -> list[Outcome]:
    if isinstance(result, CompareResult):
        return mean_preferences(result, _pairs(group))
    return [
        outcome if isinstance(outcome, Failure) else _judgement(outcome.reward, outcome.valid_mass)
        for outcome in result.outcomes
    ]


def _judgement(value: float, valid_mass: float | None) -> Outcome:
    if math.isfinite(value):
        return Judgement(value, valid_mass)
    return Failure(ServerFault(f"{value} is no reward", code=grpc.StatusCode.INTERNAL))


def _all_failed(error: RewardError, group: Group) -> list[Outcome]:
    if is_mistake(error):
        raise error
    return [Failure(error)] * len(group.indices)


def _pause(
    outcomes: Sequence[Outcome], settings: Settings, patience: Patience, attempt: int
) -> float | None:
    """Seconds to wait before the group is asked about again; None if it should not be."""
    if settings.on_failure is not OnFailure.WAIT:
        return None
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failure)]
    pause = patience.pause_after(errors, attempt)
    if pause is not None:
        _logger.warning("waiting %.1f s for the critic: %s", pause, errors[0])
    return pause


def _scattered(
    samples: Sequence[Sample | Failure], judged: Sequence[tuple[Group, Sequence[Outcome]]]
) -> list[Outcome]:
    """The outcomes of the groups in the places of their samples."""
    outcomes: list[Outcome] = [one if isinstance(one, Failure) else None for one in samples]
    for group, own in judged:
        for index, outcome in zip(group.indices, own, strict=True):
            outcomes[index] = outcome
    return outcomes
