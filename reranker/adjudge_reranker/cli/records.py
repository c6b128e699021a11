"""Results as JSON objects. A number that was not measured is null, beside an "error" object."""

from dataclasses import asdict
from typing import Any

from adjudge_reranker.cli.critiques import Critiques
from adjudge_reranker.cli.jobs import Job
from adjudge_reranker.errors import NothingJudged, RewardError
from adjudge_reranker.model_info import ModelInfo
from adjudge_reranker.ranking import RankedCandidate, Ranking
from adjudge_reranker.types import (
    CompareResult,
    Comparison,
    Failure,
    Reward,
    ScoreResult,
)

Record = dict[str, Any]


def score_record(job: Job, result: ScoreResult) -> Record:
    return {
        "id": job.id,
        "rewards": list(result.rewards),
        "outcomes": [outcome_record(outcome) for outcome in result.outcomes],
        "provenance": asdict(result.provenance),
    }


def compare_record(job: Job, result: CompareResult) -> Record:
    return {
        "id": job.id,
        "pairs": job.compared_pairs(),
        "margins": list(result.margins),
        "preferences": list(result.preferences),
        "outcomes": [outcome_record(outcome) for outcome in result.outcomes],
        "provenance": asdict(result.provenance),
    }


def rank_record(job: Job, ranking: Ranking[str]) -> Record:
    by_index = sorted(ranking.entries, key=lambda entry: entry.index)
    return {
        "id": job.id,
        "best": ranking.best.index,
        "rewards": [entry.reward for entry in by_index],
        "ranking": [_entry_record(entry) for entry in ranking.entries],
        "provenance": asdict(ranking.provenance),
    }


def critique_record(job: Job, critiques: Critiques, *, pairwise: bool) -> Record:
    numbers: Record = {"rewards": [_reward(item.outcome) for item in critiques.items]}
    if pairwise:
        numbers = {
            "pairs": job.compared_pairs(),
            "margins": [_margin(item.outcome) for item in critiques.items],
        }
    return {
        "id": job.id,
        **numbers,
        "critiques": [
            {
                "text": item.text,
                "end": item.end.reason if item.end else None,
                **outcome_record(item.outcome),
            }
            for item in critiques.items
        ],
        "provenance": asdict(critiques.provenance),
    }


def failed_record(job: Job, error: RewardError, numbers: str, count: int) -> Record:
    """The record of a job that failed as a whole: `numbers` ("rewards", "margins") are null."""
    return {"id": job.id, numbers: [None] * count, "error": error_record(error)}


def outcome_record(outcome: Reward | Comparison | Failure) -> Record:
    if isinstance(outcome, Failure):
        return {"error": error_record(outcome.error)}
    record = asdict(outcome)
    return _without_empty_distributions(record) if isinstance(outcome, Reward) else record


def error_record(error: RewardError) -> Record:
    record: Record = {
        "kind": type(error).__name__,
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
    }
    if isinstance(error, NothingJudged):
        record["failures"] = [error_record(failure) for failure in error.failures]
    return record


def model_record(model: ModelInfo) -> Record:
    return asdict(model)


def _without_empty_distributions(reward: Record) -> Record:
    """Nor those of an ensemble's members, each of which holds a reward."""
    members = [
        {**member, "reward": _without_empty_distributions(member["reward"])}
        for member in reward["members"]
    ]
    kept = {key: value for key, value in reward.items() if key != "distribution" or value}
    return {**kept, "members": members}


def _entry_record(entry: RankedCandidate[str]) -> Record:
    against_best = entry.against_best
    return {
        "index": entry.index,
        "candidate": entry.candidate,
        **outcome_record(entry.outcome),
        "against_best": None if against_best is None else outcome_record(against_best),
    }


def _reward(outcome: Reward | Comparison | Failure) -> float | None:
    return outcome.reward if isinstance(outcome, Reward) else None


def _margin(outcome: Reward | Comparison | Failure) -> float | None:
    return outcome.margin if isinstance(outcome, Comparison) else None
