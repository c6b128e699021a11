"""The same questions as messages of the contract, for callers that are no client of ours."""

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker.decode import score_result
from adjudge_reranker.errors import error_from_rpc
from tests.soak.questions import Question
from tests.soak.tally import Tally


def score_request(asked: Question, more: Sequence[str] = (), **fields: Any) -> Any:
    """`more`: candidates after the question's own."""
    return pb.ScoreCandidatesRequest(**_content(asked, more), **fields)


def compare_request(asked: Question, pairs: Sequence[tuple[int, int]]) -> Any:
    of_pairs = [pb.Pair(first=first, second=second) for first, second in pairs]
    return pb.CompareCandidatesRequest(**_content(asked, ()), pairs=of_pairs)


def critique_request(asked: Question, more: Sequence[str] = ()) -> Any:
    return pb.CritiqueCandidatesRequest(**_content(asked, more))


def _content(asked: Question, more: Sequence[str]) -> dict[str, Any]:
    parts = [
        pb.Part(image=pb.Image(encoded=asked.picture)),
        pb.Part(text=asked.text),
    ]
    candidates = [pb.Candidate(parts=[pb.Part(text=t)]) for t in (*asked.candidates, *more)]
    return {"prompt": [pb.Message(role=pb.ROLE_USER, parts=parts)], "candidates": candidates}


def check_scores(tally: Tally, who: str, asked: Question, request: Any, response: Any) -> None:
    tally.scored(who, asked, score_result(response, len(request.candidates)).outcomes)


def check_failure(
    tally: Tally, who: str, error: grpc.aio.AioRpcError, *, needs_reason: bool = False
) -> None:
    """What is UNAVAILABLE by the server's own word says when to come back."""
    found = error_from_rpc(error)
    if found.reason == "QUEUE_FULL" and not found.retry_after_seconds:
        tally.untyped.append(f"{who}: QUEUE_FULL without RetryInfo")
    if needs_reason and found.reason is None:
        tally.untyped.append(f"{who}: {found!r} without a reason")
    tally.failed(who, found)


def reason_of(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    found = [info.reason for detail in status.details if detail.Unpack(info)]
    return found[0].removeprefix("ERROR_REASON_") if found else "UNTYPED"
