"""Best-of-N while generating: each candidate is scored while the next are generated."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Generic

from adjudge_reranker.content import CandidateLike, PromptLike, to_prompt
from adjudge_reranker.errors import RewardError
from adjudge_reranker.generation.samples import C, Policy
from adjudge_reranker.generation.selecting import Selecting
from adjudge_reranker.generation.selection import Selection
from adjudge_reranker.generation.stopping import StoppingRule
from adjudge_reranker.ranking import Scorer
from adjudge_reranker.retry import NOT_GIVEN, Timeout
from adjudge_reranker.types import ScoreResult

_MAX_CALLS = 4
"""To the scorer, at a time."""

Score = Callable[[Sequence[CandidateLike]], ScoreResult]


def generate_best_of_n(
    scorer: Scorer,
    policy: Policy[C],
    prompt: PromptLike,
    num_candidates: int,
    *,
    stopping: StoppingRule | None = None,
    good_enough: float | None = None,
    allow_truncated: bool = False,
    template: str | None = None,
    reference: str | None = None,
    rubric: str | None = None,
    model: str | None = None,
    timeout: Timeout = NOT_GIVEN,
) -> Selection[C]:
    """Has `policy` answer the prompt `num_candidates` times at most, and chooses the best answer.

    The policy generates in this thread; the scorer is called from others meanwhile. No more is
    generated once a reward is `good_enough` or `stopping` says that the best is probably found.
    What is finished by then is scored all the same, and may win.

    * Equal candidates are scored once.
    * Candidates without a reward never win and are no evidence: those that could not be generated
      or judged, those that a filter cut, and, unless `allow_truncated`, those cut off at the limit
      of tokens.
    * If the critic's weights move meanwhile, earlier candidates are scored again.

    The other options are those of the scorer, `timeout` that of each call to it.

    Raises NothingJudged if no candidate has a reward (its cause is the first error of generating),
    ServerFault if two candidates were judged by different models, and what the policy raises.
    """
    messages = to_prompt(prompt)
    selecting: Selecting[C] = Selecting(
        num_candidates,
        stopping=stopping,
        good_enough=good_enough,
        allow_truncated=allow_truncated,
    )
    score = partial(
        scorer.score,
        messages,
        template=template,
        reference=reference,
        rubric=rubric,
        model=model,
        timeout=timeout,
    )
    pool = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="adjudge-score")
    try:
        watched = _Watched(selecting, pool, score)
        with closing(policy.samples(messages, watched)) as batches:
            for samples in batches:
                watched.score(selecting.add(samples))
                if watched.is_over:
                    break
        selecting.end()
        watched.wait()
    except BaseException:
        # Calls under way end at their timeout; nobody waits for what they say.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return selecting.selection()


class _Watched(Generic[C]):
    """The order, brought up to date with the scorer's answers whenever the policy looks at it: all
    in the caller's thread, so that nothing needs a lock."""

    def __init__(self, selecting: Selecting[C], pool: ThreadPoolExecutor, score: Score) -> None:
        self._selecting = selecting
        self._pool = pool
        self._score = score
        self._calls: dict[Future[ScoreResult], list[int]] = {}

    @property
    def num_wanted(self) -> int:
        self._collect()
        return self._selecting.num_wanted

    @property
    def is_over(self) -> bool:
        self._collect()
        return self._selecting.is_over

    def begin(self, count: int) -> range:
        return self._selecting.begin(count)

    def score(self, indices: list[int]) -> None:
        if indices:
            candidates = [self._selecting.candidate(index) for index in indices]
            self._calls[self._pool.submit(self._score, candidates)] = indices

    def wait(self) -> None:
        while self._calls:
            self._take(next(iter(self._calls)))

    def _collect(self) -> None:
        for call in [call for call in self._calls if call.done()]:
            self._take(call)

    def _take(self, call: Future[ScoreResult]) -> None:
        result: ScoreResult | RewardError
        try:
            result = call.result()
        except RewardError as error:
            result = error
        self.score(self._selecting.take(self._calls.pop(call), result))
