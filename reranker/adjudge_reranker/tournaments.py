"""Ranks candidates by comparing them: `knockout`, `round_robin` and `score_then_compare`.

Each has a twin for clients that do not block, of the same name behind `async_`. `docs/ranking.md`
says which one to use. What they have in common:

* A comparison that failed, or whose numbers are none, decides nothing and is listed.
* They count the pairs that they asked for. Each costs the critic two passes if the comparer asks
  in both orders, as `RewardClient` does.
* Candidates are told apart by their indices, so equal ones are compared like any others.
* `timeout` is that of each call to the comparer or the scorer; they raise what those raise.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from adjudge_reranker.bracket import Bracket, Knockout
from adjudge_reranker.bradley_terry import DEFAULT_PRIOR, require_prior
from adjudge_reranker.content import CandidateLike, PromptLike
from adjudge_reranker.contest import play, play_async, require_judged, require_several
from adjudge_reranker.playoff import ScoredThenCompared, final_of, require_final
from adjudge_reranker.ranking import AsyncComparer, AsyncScorer, Comparer, Scorer, rank
from adjudge_reranker.retry import NOT_GIVEN, Timeout
from adjudge_reranker.standings import RoundRobin, Table

C = TypeVar("C", bound=CandidateLike)


def knockout(
    comparer: Comparer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    seeds: Sequence[float | None] | None = None,
    max_failures: int = 2,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> Knockout[C]:
    """Pairs candidates off until one is left, in rounds of one call each.

    It takes N - 1 comparisons and ceil(log2 N) rounds if none fails. The order of `seeds`, for
    example rewards (higher is stronger; equal ones by index, None and NaN last), or without them
    that of the candidates, decides who meets whom: the strongest left in meets the weakest, and so
    inwards. If N is no power of two, the strongest skip the first round.

    * Who has the preference above 1/2 wins. If it is 1/2, or the comparison is within the server's
      noise, the better seeded advances: the lower index, if no seeds were given.
    * A comparison that failed knocks nobody out and is no win. Both stay in, are not paired with
      each other again, and meet others in the next round. Who is in `max_failures` of them is set
      aside, beaten by nobody. So at most N * max_failures / 2 comparisons come on top of N - 1.
    * If a failure keeps the last two apart, both are `undefeated`.

    Raises NothingJudged if every comparison failed, and ValueError if there are fewer than two
    candidates or not as many seeds.
    """
    compare = partial(
        comparer.compare,
        prompt,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    bracket = Bracket(candidates, _seeded(candidates, seeds), max_failures)
    return play(bracket, candidates, compare)


async def async_knockout(
    comparer: AsyncComparer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    seeds: Sequence[float | None] | None = None,
    max_failures: int = 2,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> Knockout[C]:
    """`knockout`, for clients that do not block."""
    compare = partial(
        comparer.compare,
        prompt,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    bracket = Bracket(candidates, _seeded(candidates, seeds), max_failures)
    return await play_async(bracket, candidates, compare)


def round_robin(
    comparer: Comparer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    prior: float = DEFAULT_PRIOR,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> RoundRobin[C]:
    """Compares every pair, N (N - 1) / 2 of them in one call, and fits strengths to the outcomes.

    `fit_bradley_terry` says what the strengths are and what `prior` does. Equally strong candidates
    are ranked by index. Comparisons that failed are left out of the fit; candidates that too few
    others connect with the rest have no strength.

    Raises NothingJudged if every comparison failed, and ValueError if there are fewer than two
    candidates.
    """
    compare = partial(
        comparer.compare,
        prompt,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    require_several(candidates)
    table = Table(candidates, range(len(candidates)), prior)
    result = play(table, candidates, compare)
    require_judged(result.compared)
    return result


async def async_round_robin(
    comparer: AsyncComparer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    prior: float = DEFAULT_PRIOR,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> RoundRobin[C]:
    """`round_robin`, for clients that do not block."""
    compare = partial(
        comparer.compare,
        prompt,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    require_several(candidates)
    table = Table(candidates, range(len(candidates)), prior)
    result = await play_async(table, candidates, compare)
    require_judged(result.compared)
    return result


def score_then_compare(
    scorer: Scorer,
    comparer: Comparer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    top: int = 4,
    prior: float = DEFAULT_PRIOR,
    template: str | None = None,
    pair_template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> ScoredThenCompared[C]:
    """Scores all candidates, then has the `top` best by reward play a round robin.

    top (top - 1) / 2 comparisons, whatever N is. Without a reward a candidate neither enters the
    final nor wins. What comparisons leave open, because they are equal or failed, rewards decide.
    `template` is that of the scores, `pair_template` that of the comparisons.

    Raises NothingJudged if no candidate has a reward, and ValueError if `top` is less than two or
    there are no candidates.
    """
    require_final(top)
    require_prior(prior)
    result = scorer.score(
        prompt,
        candidates,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    scores = rank(candidates, result)
    compare = partial(
        comparer.compare,
        prompt,
        template=pair_template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    final = final_of(candidates, scores, top, prior)
    if final is None:
        return ScoredThenCompared(scores, None)
    return ScoredThenCompared(scores, play(final, candidates, compare))


async def async_score_then_compare(
    scorer: AsyncScorer,
    comparer: AsyncComparer,
    prompt: PromptLike,
    candidates: Sequence[C],
    *,
    top: int = 4,
    prior: float = DEFAULT_PRIOR,
    template: str | None = None,
    pair_template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> ScoredThenCompared[C]:
    """`score_then_compare`, for clients that do not block."""
    require_final(top)
    require_prior(prior)
    result = await scorer.score(
        prompt,
        candidates,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    scores = rank(candidates, result)
    compare = partial(
        comparer.compare,
        prompt,
        template=pair_template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    final = final_of(candidates, scores, top, prior)
    if final is None:
        return ScoredThenCompared(scores, None)
    return ScoredThenCompared(scores, await play_async(final, candidates, compare))


def _seeded(candidates: Sequence[CandidateLike], seeds: Sequence[float | None] | None) -> list[int]:
    """Indices, the strongest first."""
    require_several(candidates)
    if seeds is None:
        return list(range(len(candidates)))
    if len(seeds) != len(candidates):
        raise ValueError(f"{len(seeds)} seeds for {len(candidates)} candidates")
    strengths = [-math.inf if s is None or math.isnan(s) else s for s in seeds]
    return sorted(range(len(seeds)), key=lambda index: -strengths[index])
