"""From rewards to a choice. Knows no server: anything that can score will do.

Order: rewards from high to low, equal ones by index from low to high, and last those without a
reward that can be ranked, whether they failed or are not a finite number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from adjudge_reranker.content import CandidateLike, PromptLike
from adjudge_reranker.errors import NothingJudged, RewardError
from adjudge_reranker.retry import NOT_GIVEN, Timeout
from adjudge_reranker.types import (
    CompareOutcome,
    CompareResult,
    Failure,
    Provenance,
    ScoreOutcome,
    ScoreResult,
)

C = TypeVar("C", bound=CandidateLike)


class Scorer(Protocol):
    """Says how good each candidate is. `RewardClient` is one."""

    def score(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> ScoreResult: ...


class Comparer(Protocol):
    """Says which candidate of each pair is better. `RewardClient` is one."""

    def compare(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        pairs: Sequence[tuple[int, int]],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> CompareResult: ...


class AsyncScorer(Protocol):
    """A scorer that does not block. `AsyncRewardClient` is one."""

    async def score(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> ScoreResult: ...


class AsyncComparer(Protocol):
    """A comparer that does not block. `AsyncRewardClient` is one."""

    async def compare(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        pairs: Sequence[tuple[int, int]],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> CompareResult: ...


@dataclass(frozen=True, slots=True)
class RankedCandidate(Generic[C]):
    """A candidate and its place."""

    index: int
    """Its place in what was ranked, from 0."""
    candidate: C
    outcome: ScoreOutcome
    against_best: CompareOutcome | None = None
    """This candidate (first) compared with the best (second), so that a positive margin
    contradicts the ranking. None for the best itself, and if no evidence was asked for."""

    @property
    def reward(self) -> float | None:
        """None if the candidate failed."""
        return None if isinstance(self.outcome, Failure) else self.outcome.reward

    @property
    def is_judged(self) -> bool:
        """Whether it has a reward that can be ranked, that is, a finite one."""
        return self.reward is not None and math.isfinite(self.reward)


@dataclass(frozen=True, slots=True)
class Ranking(Generic[C]):
    """Candidates from best to worst."""

    entries: tuple[RankedCandidate[C], ...]
    """All of them: those without a reward come last."""
    provenance: Provenance

    @property
    def failures(self) -> tuple[RewardError, ...]:
        """Why candidates have no reward, and why comparisons with the best are missing."""
        outcomes = [outcome for e in self.entries for outcome in (e.outcome, e.against_best)]
        return tuple(outcome.error for outcome in outcomes if isinstance(outcome, Failure))

    @property
    def best(self) -> RankedCandidate[C]:
        """The candidate with the highest reward; of equals the one with the lowest index."""
        return self.entries[0]


def rank(candidates: Sequence[C], result: ScoreResult) -> Ranking[C]:
    """Orders `candidates` by their rewards in `result`.

    Raises NothingJudged if none has a reward, and ValueError if there are not as many outcomes as
    candidates, or no candidates.
    """
    if len(candidates) != len(result.outcomes):
        raise ValueError(f"{len(result.outcomes)} outcomes for {len(candidates)} candidates")
    if not candidates:
        raise ValueError("no candidates to rank")
    entries = [
        RankedCandidate(index, candidate, outcome)
        for index, (candidate, outcome) in enumerate(zip(candidates, result.outcomes, strict=True))
    ]
    entries.sort(key=_place)
    if not entries[0].is_judged:
        raise NothingJudged(_why_nothing(result), failures=result.failures)
    return Ranking(tuple(entries), result.provenance)


def best_of_n(
    scorer: Scorer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    comparer: Comparer | None = None,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> Ranking[C]:
    """Scores the candidates and ranks them: `best_of_n(client, prompt, answers).best.candidate`.

    A `comparer`, for example the same client, adds evidence: each candidate's comparison with the
    best one. It never changes the order, and if it fails the entries say so instead. `timeout` is
    that of each of the two calls; `template` is that of the scores.

    Raises NothingJudged if no candidate has a reward, and what the scorer raises.
    """
    result = scorer.score(
        prompt,
        candidates,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    ranking = rank(candidates, result)
    if comparer is None or len(candidates) == 1:
        return ranking
    pairs = _pairs_with_best(ranking)
    outcomes: Sequence[CompareOutcome]
    try:
        compared = comparer.compare(
            prompt,
            candidates,
            pairs,
            reference=reference,
            rubric=rubric,
            model=model,
            timeout=timeout,
        )
        outcomes = compared.outcomes
    except RewardError as error:
        outcomes = [Failure(error)] * len(pairs)
    return _with_evidence(ranking, outcomes)


async def async_best_of_n(
    scorer: AsyncScorer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    comparer: AsyncComparer | None = None,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> Ranking[C]:
    """`best_of_n`, for clients that do not block."""
    result = await scorer.score(
        prompt,
        candidates,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    ranking = rank(candidates, result)
    if comparer is None or len(candidates) == 1:
        return ranking
    pairs = _pairs_with_best(ranking)
    outcomes: Sequence[CompareOutcome]
    try:
        compared = await comparer.compare(
            prompt,
            candidates,
            pairs,
            reference=reference,
            rubric=rubric,
            model=model,
            timeout=timeout,
        )
        outcomes = compared.outcomes
    except RewardError as error:
        outcomes = [Failure(error)] * len(pairs)
    return _with_evidence(ranking, outcomes)


def _pairs_with_best(ranking: Ranking[C]) -> list[tuple[int, int]]:
    return [(entry.index, ranking.best.index) for entry in ranking.entries[1:]]


def _with_evidence(ranking: Ranking[C], outcomes: Sequence[CompareOutcome]) -> Ranking[C]:
    best, *others = ranking.entries
    compared = (
        replace(entry, against_best=outcome)
        for entry, outcome in zip(others, outcomes, strict=True)
    )
    return replace(ranking, entries=(best, *compared))


def _place(entry: RankedCandidate[C]) -> tuple[bool, float, int]:
    # Not the reward alone: every comparison with NaN is false, so NaN would stay where it stands.
    if entry.reward is None or not entry.is_judged:
        return True, 0.0, entry.index
    return False, -entry.reward, entry.index


def _why_nothing(result: ScoreResult) -> str:
    reasons = sorted({error.reason or error.code.name for error in result.failures})
    return (
        f"none of {len(result.outcomes)} candidates has a reward"
        f" ({', '.join(reasons) or 'no reward is a finite number'})"
    )
