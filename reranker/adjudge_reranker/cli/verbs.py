"""The things that a job can be put through: how to ask, and how to show what came back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from rich.console import RenderableType

from adjudge_reranker.cli import records, tables
from adjudge_reranker.cli.critiques import Critiques, collect, critique_table
from adjudge_reranker.cli.jobs import Job
from adjudge_reranker.client import RewardClient
from adjudge_reranker.errors import RewardError
from adjudge_reranker.ranking import Ranking, best_of_n
from adjudge_reranker.types import CompareResult, CritiqueEvent, OrderPolicy, ScoreResult


@dataclass(frozen=True, slots=True)
class Options:
    """What every question may carry; see `RewardClient`."""

    template: str | None = None
    reference: str | None = None
    rubric: str | None = None
    model: str | None = None


class Judged(Protocol):
    """What every result has."""

    @property
    def failures(self) -> Sequence[RewardError]: ...


R = TypeVar("R", bound=Judged)


@dataclass(frozen=True, slots=True)
class Verb(Generic[R]):
    judge: Callable[[RewardClient, Job], R]
    record: Callable[[Job, R], dict[str, Any]]
    failed_record: Callable[[Job, RewardError], dict[str, Any]]
    """For a job that failed as a whole."""
    table: Callable[[Job, R], RenderableType]


def score_verb(options: Options) -> Verb[ScoreResult]:
    def judge(client: RewardClient, job: Job) -> ScoreResult:
        return client.score(
            job.parts(),
            job.candidates,
            template=options.template,
            reference=options.reference,
            rubric=options.rubric,
            model=options.model,
        )

    return Verb(judge, records.score_record, _no_rewards, tables.score_table)


def compare_verb(options: Options, order: OrderPolicy) -> Verb[CompareResult]:
    def judge(client: RewardClient, job: Job) -> CompareResult:
        return client.compare(
            job.parts(),
            job.candidates,
            job.compared_pairs(),
            template=options.template,
            reference=options.reference,
            rubric=options.rubric,
            model=options.model,
            order_policy=order,
        )

    return Verb(judge, records.compare_record, _no_margins, tables.compare_table)


def rank_verb(options: Options, *, compares: bool) -> Verb[Ranking[str]]:
    """Ranks by rewards; where the model compares, each candidate is also compared with the best."""

    def judge(client: RewardClient, job: Job) -> Ranking[str]:
        return best_of_n(
            client,
            job.parts(),
            job.candidates,
            comparer=client if compares else None,
            template=options.template,
            reference=options.reference,
            rubric=options.rubric,
            model=options.model,
        )

    return Verb(judge, records.rank_record, _no_rewards, tables.rank_table)


@dataclass(frozen=True, slots=True)
class Critic:
    """Asks for critiques: of each candidate, or of each pair."""

    options: Options
    pairwise: bool
    max_tokens: int | None

    def events(self, client: RewardClient, job: Job) -> Iterator[CritiqueEvent]:
        """Raises what they raise when the first is asked for, a refused picture included."""
        yield from client.critique(
            job.parts(),
            job.candidates,
            job.compared_pairs() if self.pairwise else (),
            template=self.options.template,
            reference=self.options.reference,
            rubric=self.options.rubric,
            model=self.options.model,
            max_critique_tokens=self.max_tokens,
        )

    def verb(self) -> Verb[Critiques]:
        return Verb(
            self._judge,
            partial(records.critique_record, pairwise=self.pairwise),
            _no_margins if self.pairwise else _no_rewards,
            critique_table,
        )

    def _judge(self, client: RewardClient, job: Job) -> Critiques:
        num_items = len(job.compared_pairs()) if self.pairwise else len(job.candidates)
        return collect(self.events(client, job), num_items)


def _no_rewards(job: Job, error: RewardError) -> dict[str, Any]:
    return records.failed_record(job, error, "rewards", len(job.candidates))


def _no_margins(job: Job, error: RewardError) -> dict[str, Any]:
    return records.failed_record(job, error, "margins", len(job.compared_pairs()))
