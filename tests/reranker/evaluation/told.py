"""A critic that answers what the candidates tell it to, and what is read of its evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from typer.testing import Result

from adjudge.v1 import reward_pb2 as pb
from tests.reranker.scripted import fail, status

Evaluate = Callable[..., tuple[Result, dict[str, Any], list[dict[str, Any]]]]

FIRST = "[2.0, 0.5, 0.72, 0.08, 0.2]"
SECOND = "[-1.0, 3.0, 0.22, 0.58, 0.2]"
TIE = "[0.1, 0.2, 0.3, 0.2, 0.5]"
"""Margin, position bias, and the probabilities of first, second and tie."""


def describes_templates(request: Any, context: Any) -> pb.GetModelResponse:
    pairwise = pb.Template(name="of/pairs", kind=pb.TEMPLATE_KIND_PAIRWISE)
    pointwise = pb.Template(
        name="of/scores", kind=pb.TEMPLATE_KIND_POINTWISE, min_reward=0.0, max_reward=10.0
    )
    return pb.GetModelResponse(model=pb.Model(name="scripted", templates=[pairwise, pointwise]))


def as_told(request: Any, context: Any) -> Any:
    """A candidate is a reward, or a comparison as JSON, or the reason of its failure."""
    texts = [candidate.parts[0].text for candidate in request.candidates]
    for text in texts:
        if text.startswith("call "):
            fail(grpc.StatusCode.INTERNAL, text.removeprefix("call "))(request, context)
    provenance = pb.Provenance(model="scripted", template=request.template, weights_epoch=3)
    if isinstance(request, pb.CompareCandidatesRequest):
        outcomes = [_told(texts[0], pb.CompareOutcome)]
        return pb.CompareCandidatesResponse(outcomes=outcomes, provenance=provenance)
    outcomes = [_told(text, pb.ScoreOutcome) for text in texts]
    return pb.ScoreCandidatesResponse(outcomes=outcomes, provenance=provenance)


def _told(text: str, outcome: Any) -> Any:
    if text.startswith("item "):
        reason = text.removeprefix("item ")
        return outcome(error=status(grpc.StatusCode.FAILED_PRECONDITION, reason))
    if outcome is pb.ScoreOutcome:
        return outcome(reward=pb.Reward(reward=float(text)))
    margin, bias, first, second, tie = json.loads(text)
    comparison = pb.Comparison(
        margin=margin,
        preference=first + tie / 2,
        position_bias=bias,
        first_probability=first,
        second_probability=second,
        tie_probability=tie,
    )
    return outcome(comparison=comparison)


def pair(told: str, preferred: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "Why?", "candidates": [told, "other"], "preferred": preferred, **more}


def score(told: str, label: float, **more: Any) -> dict[str, Any]:
    return {"prompt": "Why?", "candidate": told, "score": label, **more}


def read(figures: Path, records: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    written = json.loads(figures.read_text(), parse_constant=refuse) if figures.exists() else {}
    lines = records.read_text().splitlines() if records.exists() else []
    return written, [json.loads(line, parse_constant=refuse) for line in lines]


def complaints(result: Result) -> str:
    return " ".join(result.stderr.replace("│", " ").split())
