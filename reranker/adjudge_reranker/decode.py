"""From responses to values. Pure; shared by the synchronous and the asynchronous client.

Trusts no count and no number: a server that drops an outcome would misalign every reward after it,
and a reward that is not finite would win or lose at random.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker.errors import ErrorReason, ServerFault, error_from_status
from adjudge_reranker.types import (
    AnswerProbability,
    CompareOutcome,
    CompareResult,
    Comparison,
    CritiqueEnd,
    CritiqueEvent,
    CritiqueText,
    CritiqueVerdict,
    EndReason,
    Failure,
    MemberProvenance,
    MemberReward,
    Provenance,
    Reward,
    ScoreOutcome,
    ScoreResult,
)

_T = TypeVar("_T")

_END_REASONS: Final = {
    pb.END_REASON_COMPLETE: EndReason.COMPLETE,
    pb.END_REASON_LENGTH: EndReason.LENGTH,
}


def score_result(response: pb.ScoreCandidatesResponse, num_candidates: int) -> ScoreResult:
    """Raises ServerFault unless there is one outcome for each candidate."""
    _require_count(len(response.outcomes), num_candidates, "candidates")
    outcomes = tuple(_score_outcome(outcome) for outcome in response.outcomes)
    return ScoreResult(outcomes, _provenance(response.provenance))


def compare_result(response: pb.CompareCandidatesResponse, num_pairs: int) -> CompareResult:
    """Raises ServerFault unless there is one outcome for each pair."""
    _require_count(len(response.outcomes), num_pairs, "pairs")
    outcomes = tuple(_compare_outcome(outcome) for outcome in response.outcomes)
    return CompareResult(outcomes, _provenance(response.provenance))


def lacks_pictures(
    response: pb.ScoreCandidatesResponse | pb.CompareCandidatesResponse,
) -> bool:
    """Whether an item failed because the server no longer retains a picture."""
    outcomes: Sequence[pb.ScoreOutcome | pb.CompareOutcome] = response.outcomes
    return any(
        outcome.WhichOneof("outcome") == "error"
        and error_from_status(outcome.error).reason == ErrorReason.UNKNOWN_IMAGE
        for outcome in outcomes
    )


class CritiqueReader:
    """Turns the messages of one critique stream into events, and sees that none is missing."""

    def __init__(self, num_items: int) -> None:
        self._without_verdict = set(range(num_items))
        self._num_items = num_items
        self._complete = False

    def read(self, message: pb.CritiqueCandidatesResponse) -> CritiqueEvent | None:
        """The event, or None if it is of a kind newer than this client.

        Raises ServerFault if it is about no item of the request, or a second verdict on one.
        """
        kind = message.WhichOneof("event")
        if kind == "provenance":
            self._complete = True
            return _provenance(message.provenance)
        index = message.index
        if index >= self._num_items:
            raise _fault(f"an event of item {index} of {self._num_items}")
        if kind == "text":
            return CritiqueText(index, message.text)
        if kind == "end":
            reason = _END_REASONS.get(message.end.reason, EndReason.UNKNOWN)
            return CritiqueEnd(index, reason, message.end.num_tokens)
        if kind is None:
            return None
        if index not in self._without_verdict:
            raise _fault(f"two verdicts on item {index}")
        self._without_verdict.remove(index)
        return CritiqueVerdict(index, _verdict(message))

    def finish(self) -> None:
        """Call at the end of the stream. Raises ServerFault if something is still missing."""
        if not self._complete or self._without_verdict:
            judged = self._num_items - len(self._without_verdict)
            raise _fault(f"a critique that broke off with {judged} of {self._num_items} verdicts")


def _verdict(message: pb.CritiqueCandidatesResponse) -> Reward | Comparison | Failure:
    if message.WhichOneof("event") == "reward":
        return _measured(lambda: _reward(message.reward))
    if message.WhichOneof("event") == "comparison":
        return _measured(lambda: _comparison(message.comparison))
    return Failure(error_from_status(message.error))


def _score_outcome(outcome: pb.ScoreOutcome) -> ScoreOutcome:
    kind = outcome.WhichOneof("outcome")
    if kind == "reward":
        return _measured(lambda: _reward(outcome.reward))
    if kind == "error":
        return Failure(error_from_status(outcome.error))
    return Failure(_fault("an outcome with neither a reward nor an error"))


def _compare_outcome(outcome: pb.CompareOutcome) -> CompareOutcome:
    kind = outcome.WhichOneof("outcome")
    if kind == "comparison":
        return _measured(lambda: _comparison(outcome.comparison))
    if kind == "error":
        return Failure(error_from_status(outcome.error))
    return Failure(_fault("an outcome with neither a comparison nor an error"))


def _measured(convert: Callable[[], _T]) -> _T | Failure:
    """What `convert` returns; numbers that cannot be used fail their item and no other."""
    try:
        return convert()
    except ServerFault as error:
        return Failure(error)


def _reward(reward: pb.Reward) -> Reward:
    return Reward(
        reward=_required(reward, "reward"),
        mode=_optional(reward, "mode"),
        standard_deviation=_optional(reward, "standard_deviation"),
        valid_mass=_optional(reward, "valid_mass"),
        opening_mass=_optional(reward, "opening_mass"),
        distribution=tuple(
            AnswerProbability(share.answer, _required(share, "probability"))
            for share in reward.distribution
        ),
        member_spread=_optional(reward, "member_spread"),
        members=tuple(
            MemberReward(member.model, _reward(member.reward)) for member in reward.members
        ),
    )


def _comparison(comparison: pb.Comparison) -> Comparison:
    return Comparison(
        margin=_required(comparison, "margin"),
        preference=_required(comparison, "preference"),
        first_probability=_optional(comparison, "first_probability"),
        second_probability=_optional(comparison, "second_probability"),
        tie_probability=_optional(comparison, "tie_probability"),
        position_bias=_optional(comparison, "position_bias"),
        valid_mass=_optional(comparison, "valid_mass"),
        opening_mass=_optional(comparison, "opening_mass"),
        within_noise=comparison.within_noise,
    )


def _optional(message: ProtobufMessage, field: str) -> float | None:
    if not message.HasField(field):
        return None
    value = float(getattr(message, field))
    if not math.isfinite(value):
        raise _fault(f"a {field} of {value}")
    return value


def _required(message: ProtobufMessage, field: str) -> float:
    value = _optional(message, field)
    if value is None:
        raise _fault(f"a {type(message).__name__} without its {field}")
    return value


def _provenance(provenance: pb.Provenance) -> Provenance:
    return Provenance(
        model=provenance.model,
        model_fingerprint=provenance.model_fingerprint,
        weights_epoch=provenance.weights_epoch,
        template=provenance.template,
        template_hash=provenance.template_hash,
        total_seconds=seconds(provenance, "total_duration"),
        queue_seconds=seconds(provenance, "queue_duration"),
        inference_seconds=seconds(provenance, "inference_duration"),
        input_tokens=provenance.input_tokens,
        image_tokens=provenance.image_tokens,
        computed_tokens=provenance.computed_tokens,
        cached_tokens=provenance.cached_tokens,
        cached_images=provenance.cached_images,
        members=tuple(
            MemberProvenance(
                model=member.model,
                model_fingerprint=member.model_fingerprint,
                weights_epoch=member.weights_epoch,
                template=member.template,
                template_hash=member.template_hash,
            )
            for member in provenance.members
        ),
    )


def seconds(message: ProtobufMessage, field: str) -> float | None:
    """A duration field in seconds; None if it is not set."""
    if not message.HasField(field):
        return None
    duration: Duration = getattr(message, field)
    return duration.seconds + duration.nanos / 1e9


def _require_count(actual: int, expected: int, what: str) -> None:
    if actual != expected:
        raise _fault(f"{actual} outcomes for {expected} {what}")


def _fault(what: str) -> ServerFault:
    return ServerFault(f"the server sent {what}", code=grpc.StatusCode.INTERNAL)
