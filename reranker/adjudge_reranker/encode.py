"""From values to requests. Pure; shared by the synchronous and the asynchronous client."""

import operator
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

_MAX_UINT32 = 2**32 - 1
_MAX_UINT64 = 2**64 - 1

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
        expected_epoch=checked_epoch(expected_epoch),
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
    judged = to_candidates(candidates)
    options = pb.CompareCandidatesRequest(
        pairs=_pairs(pairs, len(judged)),
        template=template or "",
        reference=reference,
        rubric=rubric,
        model=model or "",
        expected_epoch=checked_epoch(expected_epoch),
        readout=READOUTS[readout],
        order_policy=_ORDER_POLICIES[order_policy],
    )
    return Draft(options, to_prompt(prompt), judged)


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
    judged = to_candidates(candidates)
    options = pb.CritiqueCandidatesRequest(
        pairs=_pairs(pairs, len(judged)),
        template=template or "",
        reference=reference,
        rubric=rubric,
        model=model or "",
        expected_epoch=checked_epoch(expected_epoch),
        max_critique_tokens=_max_critique_tokens(max_critique_tokens),
    )
    return Draft(options, to_prompt(prompt), judged)


def model_request(name: str | None) -> pb.GetModelRequest:
    return pb.GetModelRequest(model=name or "")


def _pairs(pairs: Iterable[tuple[int, int]], num_candidates: int) -> list[pb.Pair]:
    """Raises TypeError or ValueError, naming the pair, if one is not two indices of candidates."""
    return [_pair(pair, f"pairs[{number}]", num_candidates) for number, pair in enumerate(pairs)]


def _pair(pair: Iterable[int], name: str, num_candidates: int) -> pb.Pair:
    try:
        first, second = pair
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be two indices into the candidates") from error
    return pb.Pair(
        first=_index(first, f"{name}.first", num_candidates),
        second=_index(second, f"{name}.second", num_candidates),
    )


def _index(value: int, name: str, num_candidates: int) -> int:
    try:
        return _natural(value, name, num_candidates - 1)
    except ValueError as error:
        raise ValueError(
            f"{name}: {value} is no index of a candidate; there are {num_candidates}, and the first"
            " one is 0"
        ) from error


def _max_critique_tokens(value: int | None) -> int:
    """0, which is also what the contract has for none, is the server's own limit."""
    return 0 if value is None else _natural(value, "max_critique_tokens", _MAX_UINT32)


def checked_epoch(value: int | None) -> int | None:
    return None if value is None else _natural(value, "expected_epoch", _MAX_UINT64)


def _natural(value: int, name: str, maximum: int) -> int:
    """Raises TypeError or ValueError, naming the argument: protobuf's own names nothing."""
    try:
        number = operator.index(value)  # numpy's integers too
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from error
    if not 0 <= number <= maximum:
        raise ValueError(f"{name} must be from 0 to {maximum}")
    return number


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
