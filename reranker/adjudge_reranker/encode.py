"""From values to requests. Pure; shared by the synchronous and the asynchronous client."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker.content import (
    Candidate,
    CandidateLike,
    Message,
    Part,
    PromptLike,
    Role,
    to_candidates,
    to_prompt,
)
from adjudge_reranker.pictures import Image, RawPixels
from adjudge_reranker.types import OrderPolicy, Readout

_MIN_DIGESTED_BYTES = 1024
"""A smaller picture is sent whole every time: a digest saves nothing worth a missed guess."""

_ROLES = {
    Role.SYSTEM: pb.ROLE_SYSTEM,
    Role.USER: pb.ROLE_USER,
    Role.ASSISTANT: pb.ROLE_ASSISTANT,
}
_PIXEL_MODES = {
    "L": pb.PIXEL_MODE_L,
    "RGB": pb.PIXEL_MODE_RGB,
    "RGBA": pb.PIXEL_MODE_RGBA,
}
READOUTS = {
    Readout.DIRECT: pb.READOUT_DIRECT,
    Readout.AFTER_CRITIQUE: pb.READOUT_AFTER_CRITIQUE,
}
_ORDER_POLICIES = {
    OrderPolicy.BOTH: pb.ORDER_POLICY_BOTH,
    OrderPolicy.AS_GIVEN: pb.ORDER_POLICY_AS_GIVEN,
}

RequestT = TypeVar(
    "RequestT",
    pb.ScoreCandidatesRequest,
    pb.CompareCandidatesRequest,
    pb.CritiqueCandidatesRequest,
)


@dataclass(frozen=True, slots=True)
class Draft(Generic[RequestT]):
    """A request whose pictures are not in yet: whole or by digest is decided when it is sent."""

    options: RequestT
    """The request without its prompt and candidates."""
    prompt: tuple[Message, ...]
    candidates: tuple[Candidate, ...]

    @property
    def digests(self) -> frozenset[bytes]:
        """Wire digests of the pictures large enough to be worth naming by them."""
        turns = tuple(message.parts for message in self.prompt)
        return frozenset(
            part.wire_digest
            for parts in turns + self.candidates
            for part in parts
            if isinstance(part, Image) and part.num_bytes > _MIN_DIGESTED_BYTES
        )

    def request(self, known: Container[bytes] = ()) -> RequestT:
        """The request, with only the digest of each picture whose digest is in `known`."""
        request = type(self.options)()
        request.CopyFrom(self.options)
        request.prompt.extend(
            pb.Message(role=_ROLES[message.role], parts=_parts(message.parts, known))
            for message in self.prompt
        )
        request.candidates.extend(
            pb.Candidate(parts=_parts(parts, known)) for parts in self.candidates
        )
        return request


def score_draft(
    prompt: PromptLike,
    candidates: Sequence[CandidateLike],
    *,
    template: str | None,
    reference: str | None,
    rubric: str | None,
    model: str | None,
    expected_epoch: int | None,
    readout: Readout,
    include_distribution: bool,
) -> Draft[pb.ScoreCandidatesRequest]:
    options = pb.ScoreCandidatesRequest(
        template=template or "",
        reference=reference,
        rubric=rubric,
        model=model or "",
        expected_epoch=expected_epoch,
        readout=READOUTS[readout],
        include_distribution=include_distribution,
    )
    return Draft(options, to_prompt(prompt), to_candidates(candidates))


def compare_draft(
    prompt: PromptLike,
    candidates: Sequence[CandidateLike],
    pairs: Iterable[tuple[int, int]],
    *,
    template: str | None,
    reference: str | None,
    rubric: str | None,
    model: str | None,
    expected_epoch: int | None,
    readout: Readout,
    order_policy: OrderPolicy,
) -> Draft[pb.CompareCandidatesRequest]:
    options = pb.CompareCandidatesRequest(
        pairs=_pairs(pairs),
        template=template or "",
        reference=reference,
        rubric=rubric,
        model=model or "",
        expected_epoch=expected_epoch,
        readout=READOUTS[readout],
        order_policy=_ORDER_POLICIES[order_policy],
    )
    return Draft(options, to_prompt(prompt), to_candidates(candidates))


def critique_draft(
    prompt: PromptLike,
    candidates: Sequence[CandidateLike],
    pairs: Iterable[tuple[int, int]],
    *,
    template: str | None,
    reference: str | None,
    rubric: str | None,
    model: str | None,
    expected_epoch: int | None,
    max_critique_tokens: int | None,
) -> Draft[pb.CritiqueCandidatesRequest]:
    options = pb.CritiqueCandidatesRequest(
        pairs=_pairs(pairs),
        template=template or "",
        reference=reference,
        rubric=rubric,
        model=model or "",
        expected_epoch=expected_epoch,
        max_critique_tokens=max_critique_tokens or 0,
    )
    return Draft(options, to_prompt(prompt), to_candidates(candidates))


def model_request(name: str | None) -> pb.GetModelRequest:
    return pb.GetModelRequest(model=name or "")


def _pairs(pairs: Iterable[tuple[int, int]]) -> list[pb.Pair]:
    return [pb.Pair(first=first, second=second) for first, second in pairs]


def _parts(parts: Iterable[Part], known: Container[bytes]) -> list[pb.Part]:
    return [
        pb.Part(text=part) if isinstance(part, str) else pb.Part(image=_image(part, known))
        for part in parts
    ]


def _image(image: Image, known: Container[bytes]) -> pb.Image:
    if image.num_bytes > _MIN_DIGESTED_BYTES and image.wire_digest in known:
        return pb.Image(wire_digest=image.wire_digest)
    if isinstance(image.source, RawPixels):
        pixels = image.source
        return pb.Image(
            raw=pb.RawPixels(
                mode=_PIXEL_MODES[pixels.mode],
                width=pixels.width,
                height=pixels.height,
                data=pixels.data,
            )
        )
    return pb.Image(encoded=image.source)
