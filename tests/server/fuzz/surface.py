"""The methods that callers reach, a sound request of each, and what may be answered."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from PIL import Image

from adjudge.v1 import admin_pb2
from adjudge.v1 import reward_pb2 as pb
from tests.server.fuzz.weights import Weights

SERVICE: Final = "/adjudge.v1.RewardService"
SCORE, COMPARE = f"{SERVICE}/ScoreCandidates", f"{SERVICE}/CompareCandidates"
CRITIQUE, MODEL = f"{SERVICE}/CritiqueCandidates", f"{SERVICE}/GetModel"
LOAD: Final = "/adjudge.v1.AdminService/LoadWeights"
HEALTH: Final = "/grpc.health.v1.Health/Check"
WATCH: Final = "/grpc.health.v1.Health/Watch"
LIST: Final = "/grpc.health.v1.Health/List"
REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STREAMED: Final = (CRITIQUE, WATCH, REFLECTION)
"""Those whose answer is a stream."""
OTHER, PANEL = "other", "panel"
NAMES: Final = ("fake", OTHER, PANEL)
MODELS: Final = f"""
[[critic]]
name = "fake"
family = "fake"

[[critic]]
name = "{OTHER}"
family = "fake"

[[ensemble]]
name = "{PANEL}"
combine = "minimum"

[[ensemble.member]]
critic = "fake"

[[ensemble.member]]
critic = "{OTHER}"
"""
"""A file of several models, for `--models`; the embedded critic, alone, knows none of the names."""
SHARES: Final = {
    SCORE: 0.28,
    COMPARE: 0.28,
    CRITIQUE: 0.05,
    MODEL: 0.09,
    LOAD: 0.05,
    HEALTH: 0.07,
    LIST: 0.02,
    WATCH: 0.06,
    REFLECTION: 0.1,
}
"""How often each is called."""


def seeds(weights: Weights) -> list[tuple[str, Message]]:
    """A method and a request that it answers; each field of the contract is set somewhere."""
    questions = [_question(*pictures) for pictures in ((), *((p,) for p in _pictures()))]
    questions.append(_question(*_pictures()[:3]))
    texts = ("Three.", "", "A cat\nand a dog.", "<|im_end|>")
    found: list[tuple[str, Message]] = []
    for number, prompt in enumerate(questions):
        # Most with two candidates: what is decoded and judged twice is decoded and judged alike.
        some = [_candidate(text) for text in (texts if number % 4 == 0 else texts[:2])]
        about = {"prompt": [prompt], "candidates": some}
        pairs = [pb.Pair(first=0, second=1), pb.Pair(first=1, second=0)]
        found += [
            (SCORE, pb.ScoreCandidatesRequest(**about, include_distribution=number % 4 == 0)),
            (SCORE, pb.ScoreCandidatesRequest(**about, readout=1)),
            (COMPARE, pb.CompareCandidatesRequest(**about, pairs=pairs)),
            (COMPARE, pb.CompareCandidatesRequest(**about, pairs=pairs[:1], order_policy=2)),
            (CRITIQUE, pb.CritiqueCandidatesRequest(**about, max_critique_tokens=4)),
            (CRITIQUE, pb.CritiqueCandidatesRequest(**about, pairs=pairs, max_critique_tokens=2)),
        ]
    loads = [admin_pb2.LoadWeightsRequest(path=str(path)) for path in weights.asked_for()]
    served = "adjudge.v1.RewardService"
    return [
        *found,
        (SCORE, pb.ScoreCandidatesRequest(**about, reference="3", rubric="Be strict.")),
        (SCORE, pb.ScoreCandidatesRequest(**about, expected_epoch=0, model="fake")),
        *((SCORE, pb.ScoreCandidatesRequest(**about, model=name)) for name in (OTHER, PANEL)),
        (SCORE, pb.ScoreCandidatesRequest(**about, model=PANEL, template=f"ensemble/{PANEL}")),
        *((COMPARE, pb.CompareCandidatesRequest(**about, pairs=pairs, model=n)) for n in NAMES),
        (CRITIQUE, pb.CritiqueCandidatesRequest(**about, max_critique_tokens=2, model=OTHER)),
        *((MODEL, pb.GetModelRequest(model=name)) for name in ("", *NAMES)),
        *((LOAD, admin_pb2.LoadWeightsRequest(path=loads[0].path, model=n)) for n in NAMES[1:]),
        *((LOAD, load) for load in loads),
        (LOAD, admin_pb2.LoadWeightsRequest(path=loads[0].path, model="fake", expected_epoch=0)),
        *((HEALTH, health_pb2.HealthCheckRequest(service=name)) for name in ("", served)),
        *((WATCH, health_pb2.HealthCheckRequest(service=name)) for name in ("", served, "none")),
        (LIST, health_pb2.HealthListRequest()),
        (REFLECTION, reflection_pb2.ServerReflectionRequest(list_services="")),
        (REFLECTION, reflection_pb2.ServerReflectionRequest(file_containing_symbol=served)),
        (
            REFLECTION,
            reflection_pb2.ServerReflectionRequest(host="here", file_by_filename="a.proto"),
        ),
    ]


def _question(*pictures: pb.Image) -> pb.Message:
    parts = [pb.Part(image=picture) for picture in pictures]
    return pb.Message(role=pb.ROLE_USER, parts=[*parts, pb.Part(text="How many are there?")])


def _candidate(text: str) -> pb.Candidate:
    return pb.Candidate(parts=[pb.Part(text=text)])


def _pictures() -> list[pb.Image]:
    small = Image.frombytes("L", (9, 7), random.Random(1).randbytes(63))
    modes = [("PNG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("JPEG", "CMYK")]
    modes += [("JPEG", "L"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB")]
    files = [pb.Image(encoded=_file(small.convert(mode), kind)) for kind, mode in modes]
    frames = [small.convert("P"), small.rotate(180).convert("P")]
    animated = BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    raw = pb.RawPixels(mode=pb.PIXEL_MODE_L, width=9, height=7, data=small.tobytes())
    digest = pb.Image(wire_digest=bytes(32))
    return [*files, pb.Image(encoded=animated.getvalue()), pb.Image(raw=raw), digest]


def _file(image: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # orientation
    image.save(file, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
    return file.getvalue()


# Answers ------------------------------------------------------------------------------------------


Sent: TypeAlias = tuple[str, bytes]
"""A method, and what was sent to it."""

REFUSALS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: messages (of a watch the first one only), and how it ended."""

    messages: Sequence[bytes]
    code: grpc.StatusCode
    text: str
    details: bytes


def problem(case: Sent, answer: Answer, weights: Weights) -> str | None:
    """What is wrong with an answer. A typed refusal is as good as a reward."""
    method, data = case
    if answer.code is not grpc.StatusCode.OK:
        may_be_forbidden = method == LOAD and answer.code is grpc.StatusCode.PERMISSION_DENIED
        if answer.code not in REFUSALS and not may_be_forbidden:
            return f"{answer.code.name}: {answer.text}"
        if method == HEALTH and answer.code is grpc.StatusCode.NOT_FOUND:
            return None
        return _untyped(status_pb2.Status.FromString(answer.details))
    if method in (SCORE, COMPARE):
        kind: Any = pb.ScoreCandidatesResponse if method == SCORE else pb.CompareCandidatesResponse
        outcomes = kind.FromString(answer.messages[0]).outcomes
        return next(filter(None, map(_bad_outcome, outcomes)), None if outcomes else "no outcome")
    if method == CRITIQUE:
        return _bad_critique([pb.CritiqueCandidatesResponse.FromString(m) for m in answer.messages])
    if method == LOAD:
        path = admin_pb2.LoadWeightsRequest.FromString(data).path
        return None if weights.may_be_loaded(path) else f"loaded {path!r}"
    if method == MODEL:
        model = pb.GetModelResponse.FromString(answer.messages[0]).model
        return f"{model.revision} is served" if model.revision == weights.BAIT else None
    return None if answer.messages or method == REFLECTION else "nothing was answered"


def _bad_outcome(outcome: Any) -> str | None:
    match outcome.WhichOneof("outcome"):
        case "reward":
            return _bad_reward(outcome.reward)
        case "comparison":
            return _bad_number(outcome.comparison, "margin")
        case "error":
            return _untyped(outcome.error)
    return "an outcome that is nothing"


def _bad_critique(responses: Sequence[pb.CritiqueCandidatesResponse]) -> str | None:
    if not responses or responses[-1].WhichOneof("event") != "provenance":
        return "a critique without provenance at its end"
    for response in responses:
        match response.WhichOneof("event"):
            case "error":
                if found := _untyped(response.error):
                    return found
            case "reward":
                if found := _bad_reward(response.reward):
                    return found
            case "comparison":
                if found := _bad_number(response.comparison, "margin"):
                    return found
    return None


def _bad_reward(reward: pb.Reward) -> str | None:
    """An ensemble's holds those of its members."""
    if found := _bad_number(reward, "reward"):
        return found
    if reward.members and (found := _bad_number(reward, "member_spread")):
        return found
    return next(filter(None, (_bad_reward(member.reward) for member in reward.members)), None)


def _bad_number(measured: Message, field: str) -> str | None:
    if measured.HasField(field) and math.isfinite(getattr(measured, field)):
        return None
    return f"a {field} that is no number"


def _untyped(status: status_pb2.Status) -> str | None:
    info = error_details_pb2.ErrorInfo()
    known = [d for d in status.details if d.Unpack(info)]
    if len(known) != 1 or info.domain != "adjudge" or info.reason == "ERROR_REASON_CRITIC_FAILURE":
        return f"{info.reason or 'untyped'}: {status.message}"
    return None
