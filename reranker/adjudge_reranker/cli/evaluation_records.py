"""Evaluations as JSON objects: each item with its label and reading, and the report."""

from dataclasses import asdict
from typing import Any

from adjudge_reranker.cli.records import Record, error_record, outcome_record
from adjudge_reranker.errors import RewardError
from adjudge_reranker.evaluation.importers import Layout
from adjudge_reranker.evaluation.judge import Judged, Unanswered
from adjudge_reranker.evaluation.records import Item, LabelledGroup, LabelledPair, LabelledScore
from adjudge_reranker.evaluation.report import Report


def judged_record(judged: Judged) -> Record:
    """An item by its id and place, its label, and its reading or an "error" in the place of it."""
    item, reading = judged.item, judged.reading
    record: Record = {"id": item.id, "place": item.place, "subset": item.subset}
    record |= {"cluster": item.cluster, **_label(item)}
    if isinstance(reading, Unanswered):
        record["error"] = _unanswered_record(reading)
        outcomes = reading.outcomes
    elif isinstance(reading, tuple):
        outcomes = reading
    else:
        record |= outcome_record(reading)
        outcomes = ()
    if outcomes:
        record["outcomes"] = [outcome_record(outcome) for outcome in outcomes]
    record["provenance"] = None if judged.provenance is None else asdict(judged.provenance)
    return record


def report_record(report: Report, file: str, layout: Layout) -> Record:
    """All of a report, and what it is about."""
    return {"file": file, "layout": layout, **asdict(report)}


def _label(item: Item) -> dict[str, Any]:
    match item:
        case LabelledPair():
            return {"preferred": item.preferred}
        case LabelledScore():
            return {"score": item.score}
        case LabelledGroup():
            return {"num_chosen": len(item.chosen), "num_rejected": len(item.rejected)}


def _unanswered_record(unanswered: Unanswered) -> Record:
    if isinstance(unanswered.error, RewardError):
        # Its own reason is null where gRPC has only a code, by which it is counted.
        return error_record(unanswered.error) | {"reason": unanswered.reason}
    kind = None if unanswered.error is None else type(unanswered.error).__name__
    message = "" if unanswered.error is None else str(unanswered.error)
    return {
        "kind": kind,
        "code": None,
        "reason": unanswered.reason,
        "message": message,
        "metadata": {},
    }
