"""Requests larger than a server takes, cut into parts that it does take. Pure."""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import grpc

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import decode
from adjudge_reranker.content import Part as ContentPart
from adjudge_reranker.encode import Draft, RequestT
from adjudge_reranker.errors import ErrorReason, RewardError
from adjudge_reranker.model_info import Limits
from adjudge_reranker.types import CompareResult, ScoreResult

ResponseT = TypeVar("ResponseT", pb.ScoreCandidatesResponse, pb.CompareCandidatesResponse)
ResultT = TypeVar("ResultT", ScoreResult, CompareResult)

_OVERHEAD_BYTES: Final = 64
"""More than tags, lengths, sizes and modes add to a part of a message."""
_SPLITTABLE_LIMITS: Final = {"max_candidates", "max_pairs", "max_message_bytes"}
_INDEX: Final = re.compile(r"(candidates|pairs)\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part(Generic[RequestT]):
    """One of the calls that a large request becomes."""

    draft: Draft[RequestT]
    num_items: int
    """Candidates to score, or pairs to compare. Items of parts follow one another in order."""
    candidates: tuple[int, ...]
    """Where each of the draft's candidates stands in the whole request."""
    first_pair: int = 0
    """Where the draft's first pair stands in the whole request."""

    def placed(self, error: RewardError) -> RewardError:
        """The error, with its field as the whole request would have it."""
        match = _INDEX.match(error.field or "")
        if match is None:
            return error
        name, index = match[1], int(match[2])
        if name == "pairs":
            index += self.first_pair
        elif index < len(self.candidates):
            index = self.candidates[index]
        placed = copy.copy(error)
        placed.metadata = error.metadata | {"field": f"{name}[{index}]{match[3]}"}
        return placed

    def in_epoch(self, epoch: int) -> Draft[RequestT]:
        """The draft, to be answered by this weights epoch or not at all."""
        options = type(self.draft.options)()
        options.CopyFrom(self.draft.options)
        options.expected_epoch = epoch
        return replace(self.draft, options=options)


@dataclass(frozen=True, slots=True)
class Question(Generic[RequestT, ResponseT, ResultT]):
    """What score and compare do differently with a draft."""

    num_items: Callable[[Draft[RequestT]], int]
    split: Callable[[Draft[RequestT], Limits, int], list[Part[RequestT]]]
    decode: Callable[[ResponseT, int], ResultT]


def is_too_large(refusal: RewardError) -> bool:
    """Whether a request was refused for what its parts would not be."""
    if refusal.reason == ErrorReason.LIMIT_EXCEEDED:
        return refusal.metadata.get("limit") in _SPLITTABLE_LIMITS
    # gRPC's own word, on either side, for a message over the limit.
    return refusal.reason is None and refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def _score_parts(
    draft: Draft[pb.ScoreCandidatesRequest], limits: Limits, max_message_bytes: int
) -> list[Part[pb.ScoreCandidatesRequest]]:
    room = _room(draft, limits, max_message_bytes)
    most = limits.max_candidates or len(draft.candidates)
    groups: list[list[int]] = []
    used = 0
    for index, candidate in enumerate(draft.candidates):
        size = _num_bytes(candidate)
        if not groups or len(groups[-1]) >= most or used + size > room:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += size
    return [
        Part(_with_candidates(draft, group), num_items=len(group), candidates=tuple(group))
        for group in groups
    ]


def _compare_parts(
    draft: Draft[pb.CompareCandidatesRequest], limits: Limits, max_message_bytes: int
) -> list[Part[pb.CompareCandidatesRequest]]:
    """Pairs in their order; each part has the candidates that its pairs name, and no others."""
    pairs = draft.options.pairs
    count = len(draft.candidates)
    # A pair that names no candidate is for the server to refuse, with the whole request.
    if any(pair.first >= count or pair.second >= count for pair in pairs):
        return [Part(draft, num_items=len(pairs), candidates=tuple(range(count)))]
    room = _room(draft, limits, max_message_bytes)
    most_pairs = limits.max_pairs or len(pairs)
    most_candidates = max(limits.max_candidates or count, 2)
    parts = []
    start, named, used = 0, dict[int, int](), 0
    for index, pair in enumerate(pairs):
        new = {i for i in (pair.first, pair.second) if i not in named}
        size = _OVERHEAD_BYTES + sum(_num_bytes(draft.candidates[i]) for i in new)
        full = index - start >= most_pairs or len(named) + len(new) > most_candidates
        if index > start and (full or used + size > room):
            parts.append(_compare_part(draft, start, index, list(named)))
            start, named, used = index, {}, 0
            new = {pair.first, pair.second}
            size = _OVERHEAD_BYTES + sum(_num_bytes(draft.candidates[i]) for i in new)
        named.update((i, len(named) + n) for n, i in enumerate(sorted(new)))
        used += size
    parts.append(_compare_part(draft, start, len(pairs), list(named)))
    return parts


def _compare_part(
    draft: Draft[pb.CompareCandidatesRequest], start: int, stop: int, named: Sequence[int]
) -> Part[pb.CompareCandidatesRequest]:
    place = {index: position for position, index in enumerate(named)}
    options = pb.CompareCandidatesRequest()
    options.CopyFrom(draft.options)
    del options.pairs[:]
    options.pairs.extend(
        pb.Pair(first=place[pair.first], second=place[pair.second])
        for pair in draft.options.pairs[start:stop]
    )
    chosen = replace(_with_candidates(draft, named), options=options)
    return Part(chosen, num_items=stop - start, candidates=tuple(named), first_pair=start)


def _with_candidates(draft: Draft[RequestT], indices: Sequence[int]) -> Draft[RequestT]:
    return replace(draft, candidates=tuple(draft.candidates[index] for index in indices))


def _room(draft: Draft[RequestT], limits: Limits, max_message_bytes: int) -> int:
    """Bytes that a message has for candidates and pairs, pictures whole."""
    limit = min(limits.max_message_bytes or max_message_bytes, max_message_bytes)
    options = type(draft.options)()
    options.CopyFrom(draft.options)
    if isinstance(options, pb.CompareCandidatesRequest):
        del options.pairs[:]
    prompt = sum(_num_bytes(message.parts) for message in draft.prompt)
    return limit - options.ByteSize() - prompt - _OVERHEAD_BYTES


def _num_bytes(parts: Iterable[ContentPart]) -> int:
    """An upper bound of what a message's or a candidate's parts take on the wire."""
    return _OVERHEAD_BYTES + sum(
        _OVERHEAD_BYTES + (len(part.encode()) if isinstance(part, str) else part.num_bytes)
        for part in parts
    )


SCORE: Final = Question(lambda draft: len(draft.candidates), _score_parts, decode.score_result)
COMPARE: Final = Question(
    lambda draft: len(draft.options.pairs), _compare_parts, decode.compare_result
)
