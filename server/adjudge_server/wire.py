"""Between protobuf and the server's own types. Whoever answers a request sees both (`service` and
what it calls); what is behind the queue, and the maths, see no protobuf."""

from collections.abc import Iterable

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from adjudge.v1 import reward_pb2 as pb
from adjudge_server.content import (
    Candidate,
    EncodedImage,
    ImageReference,
    Message,
    Pair,
    Part,
    Question,
    RawImage,
    Role,
    WireImage,
)
from adjudge_server.errors import AdjudgeError, InvalidRequest
from adjudge_server.readout import Comparison, Reward
from adjudge_server.templates import Kind, Readout, RewardKind, Template, VerdictPlace

ERROR_DOMAIN = "adjudge"
MAX_MESSAGE_CHARACTERS = 500
MAX_METADATA_CHARACTERS = 200
"""Trailers over 8 KiB are replaced by gRPC with an error of its own; a name that a caller made up
must not cost it the error that says so."""
PairsRequest = pb.CompareCandidatesRequest | pb.CritiqueCandidatesRequest
Request = pb.ScoreCandidatesRequest | PairsRequest

_ROLES = {
    pb.ROLE_SYSTEM: Role.SYSTEM,
    pb.ROLE_USER: Role.USER,
    pb.ROLE_ASSISTANT: Role.ASSISTANT,
}
_MODES = {pb.PIXEL_MODE_L: "L", pb.PIXEL_MODE_RGB: "RGB", pb.PIXEL_MODE_RGBA: "RGBA"}
_KINDS = {
    Kind.POINTWISE: pb.TEMPLATE_KIND_POINTWISE,
    Kind.PAIRWISE: pb.TEMPLATE_KIND_PAIRWISE,
}
READOUTS = {
    pb.READOUT_UNSPECIFIED: Readout.DIRECT,
    pb.READOUT_DIRECT: Readout.DIRECT,
    pb.READOUT_AFTER_CRITIQUE: Readout.AFTER_CRITIQUE,
}
_READOUTS_ON_THE_WIRE = {
    Readout.DIRECT: pb.READOUT_DIRECT,
    Readout.AFTER_CRITIQUE: pb.READOUT_AFTER_CRITIQUE,
}
_REWARD_KINDS = {
    RewardKind.EXPECTED: pb.REWARD_KIND_EXPECTED_SCORE,
    RewardKind.LOG_ODDS: pb.REWARD_KIND_LOG_ODDS,
    RewardKind.SCALAR: pb.REWARD_KIND_SCALAR,
    RewardKind.ENSEMBLE: pb.REWARD_KIND_ENSEMBLE,
}
_VERDICT_PLACES = {
    VerdictPlace.START: pb.VERDICT_PLACE_START,
    VerdictPlace.FIRST: pb.VERDICT_PLACE_FIRST,
    VerdictPlace.LAST: pb.VERDICT_PLACE_LAST,
}


# Requests -----------------------------------------------------------------------------------------


def read_question(request: Request) -> Question:
    """Raises InvalidRequest for a role or part that is not set."""
    return Question(
        prompt=tuple(_message(m, f"prompt[{i}]") for i, m in enumerate(request.prompt)),
        template=request.template,
        reference=request.reference if request.HasField("reference") else None,
        rubric=request.rubric if request.HasField("rubric") else None,
    )


def read_candidates(request: Request) -> list[Candidate | AdjudgeError]:
    """Each candidate; InvalidRequest in the place of one with a part that is not set."""
    return [_candidate(c, f"candidates[{i}]") for i, c in enumerate(request.candidates)]


def read_pairs(request: PairsRequest) -> list[Pair]:
    return [Pair(pair.first, pair.second) for pair in request.pairs]


def _message(message: pb.Message, field: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest("the role is not set, or not known", field=f"{field}.role")
    if not message.parts:
        raise InvalidRequest("a message needs at least one part", field=f"{field}.parts")
    return Message(role, _parts(message.parts, field))


def _candidate(candidate: pb.Candidate, field: str) -> Candidate | AdjudgeError:
    try:
        return Candidate(_parts(candidate.parts, field))
    except AdjudgeError as error:
        return error


def _parts(parts: Iterable[pb.Part], field: str) -> tuple[Part, ...]:
    return tuple(_part(part, f"{field}.parts[{i}]") for i, part in enumerate(parts))


def _part(part: pb.Part, field: str) -> Part:
    match part.WhichOneof("data"):
        case "text":
            return part.text
        case "image":
            return _image(part.image, f"{field}.image")
    raise InvalidRequest("the part is neither text nor image", field=field)


def _image(image: pb.Image, field: str) -> WireImage:
    match image.WhichOneof("source"):
        case "encoded":
            return EncodedImage(image.encoded)
        case "wire_digest":
            return ImageReference(image.wire_digest)
        case "raw":
            raw = image.raw
            mode = _MODES.get(raw.mode)
            if mode is None:
                raise InvalidRequest("the pixel mode is not set", field=f"{field}.raw.mode")
            return RawImage(mode, raw.width, raw.height, raw.data)
    raise InvalidRequest("the image has no source", field=field)


# Responses ----------------------------------------------------------------------------------------


def write_reward(reward: Reward, template: Template, *, distribution: bool) -> pb.Reward:
    labels = [answer.label for answer in template.answers] if distribution else []
    return pb.Reward(
        reward=reward.reward,
        mode=reward.mode,
        standard_deviation=reward.standard_deviation,
        valid_mass=reward.valid_mass,
        opening_mass=reward.opening_mass,
        member_spread=reward.member_spread,
        distribution=[
            pb.AnswerProbability(answer=label, probability=probability)
            for label, probability in zip(labels, reward.distribution, strict=False)
        ],
    )


def write_comparison(comparison: Comparison) -> pb.Comparison:
    return pb.Comparison(
        margin=comparison.margin,
        preference=comparison.preference,
        first_probability=comparison.first_probability,
        second_probability=comparison.second_probability,
        tie_probability=comparison.tie_probability,
        position_bias=comparison.position_bias,
        valid_mass=comparison.valid_mass,
        opening_mass=comparison.opening_mass,
        within_noise=comparison.within_noise,
    )


def write_template(template: Template) -> pb.Template:
    """Of a critic."""
    scores = template.scores
    return pb.Template(
        name=template.name,
        version=template.version,
        hash=template.hash,
        kind=_KINDS[template.kind],
        min_reward=min(scores) if scores else None,
        max_reward=max(scores) if scores else None,
        answers=[answer.label for answer in template.answers],
        accepts_reference="reference" in template.slots,
        accepts_rubric="rubric" in template.slots,
        readouts=[_READOUTS_ON_THE_WIRE[readout] for readout in template.readouts],
        text=template.text,
        accepts_prompt_text="prompt" in template.slots,
        reward_kind=_REWARD_KINDS[template.reward] if template.kind is Kind.POINTWISE else None,
        opening=template.opening,
        other_openings=template.other_openings,
        verdict_after=template.after,
        verdict_place=_VERDICT_PLACES[template.verdict],
    )


def write_duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def write_error(error: AdjudgeError) -> status_pb2.Status:
    """The google.rpc.Status of an error, with its one ErrorInfo and, where it may be retried, a
    RetryInfo."""
    metadata = {key: value[:MAX_METADATA_CHARACTERS] for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(
        reason=f"ERROR_REASON_{error.reason}", domain=ERROR_DOMAIN, metadata=metadata
    )
    details = [_any(info)]
    if error.retry_after_seconds is not None:
        delay = write_duration(error.retry_after_seconds)
        details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
    code: int = error.code.value[0]
    message = error.message[:MAX_MESSAGE_CHARACTERS]
    return status_pb2.Status(code=code, message=message, details=details)


def _any(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
