"""From what trainers hold to what a critic is asked: samples, and groups of them.

Text stays text wherever it comes from; only columns and content parts that are meant to hold a
picture are read as one.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from adjudge_reranker.content import Candidate, Message, Part, Role, to_candidates
from adjudge_reranker.errors import ErrorReason, RequestRefused
from adjudge_reranker.pictures import Image
from adjudge_reranker.trainers.pictures import PictureReader, picture_payload
from adjudge_reranker.types import Failure

ChatLike: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages: mappings with a role and a content, which is a text or a list of
parts."""

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "tool": Role.USER,  # the contract has no role for what tools answer
    "assistant": Role.ASSISTANT,
    "model": Role.ASSISTANT,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion, ready to be judged."""

    prompt: tuple[Message, ...]
    answer: Candidate
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The samples of a batch that share prompt, pictures and reference: one request."""

    prompt: tuple[Message, ...]
    reference: str | None
    indices: tuple[int, ...]
    """Their places in the batch, from low to high."""
    answers: tuple[Candidate, ...]
    """In the order of `indices`."""


def read_sample(
    prompt: ChatLike,
    completion: ChatLike,
    *,
    pictures: Any = None,
    reference: Any = None,
    strip_thinking: bool = False,
    reader: PictureReader | None = None,
) -> Sample | Failure:
    """The sample, or the failure of this one sample: a picture that cannot be read, or text that
    cannot be sent.

    `pictures` is a row of a column of pictures: None, one, or a list. They fill the prompt's empty
    image parts, or else stand before the text of its first turn of the user; a prompt that holds
    its pictures already, as TRL hands it over, is left as it is.

    Raises TypeError for what is no prompt, completion or picture at all.
    """
    reader = reader or PictureReader()
    try:
        messages = read_prompt(prompt, pictures, reader)
        answer = _answer(completion, strip_thinking, reader)
        text = None if reference is None else str(reference)
    except (ValueError, OSError) as error:
        refused = RequestRefused(
            f"the sample cannot be sent: {error}",
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason=ErrorReason.INVALID_REQUEST,
        )
        return Failure(refused)
    return Sample(messages, answer, text)


def read_prompt(prompt: ChatLike, pictures: Any, reader: PictureReader) -> tuple[Message, ...]:
    """The prompt's messages with their pictures; `read_sample` says where these go."""
    if isinstance(prompt, str):
        return (Message.user(*reader.column(pictures), prompt),)
    turns = [_turn(message) for message in _messages(prompt, "a prompt")]
    blocks = [block for _, blocks in turns for block in blocks if isinstance(block, Mapping)]
    payloads = [picture_payload(block) for block in blocks]
    empty = sum(payload is None for payload in payloads)
    # A prompt without an empty place either needs its pictures put first, or has them already.
    loose = () if blocks and not empty else reader.column(pictures)
    if empty and empty != len(loose):
        raise ValueError(f"{len(loose)} pictures for {empty} image parts")
    waiting = list(loose)
    messages = []
    for role, parts in turns:
        filled: list[Part] = []
        if not empty and waiting and role is Role.USER:
            filled, waiting = list(waiting), []
        filled.extend(_part(part, waiting, reader) for part in parts)
        if filled:
            messages.append(Message(role, tuple(filled)))
    if waiting:
        messages.insert(0, Message(Role.USER, tuple(waiting)))
    return tuple(messages)


def grouped(samples: Sequence[Sample | Failure]) -> list[Group]:
    """Groups of the samples that can be judged, in the order of their first members."""
    members: dict[Hashable, list[int]] = {}
    for index, sample in enumerate(samples):
        if isinstance(sample, Sample):
            members.setdefault(_key(sample), []).append(index)
    groups = []
    for indices in members.values():
        chosen = [one for index in indices if isinstance(one := samples[index], Sample)]
        answers = tuple(sample.answer for sample in chosen)
        groups.append(Group(chosen[0].prompt, chosen[0].reference, tuple(indices), answers))
    return groups


def after_thinking(text: str) -> str:
    """What follows the last `</think>`. Empty if the thinking began and never ended: there is no
    answer then. The opening tag is often part of the prompt, so its absence means nothing."""
    _, end, answer = text.rpartition("</think>")
    if end:
        return answer.lstrip()
    return "" if text.lstrip().startswith("<think>") else text


def _answer(completion: ChatLike, strip_thinking: bool, reader: PictureReader) -> Candidate:
    """The text, or the last turn of the assistant: with tools, what comes before it is work."""
    parts: list[Part] = []
    if isinstance(completion, str):
        parts = [completion]
    else:
        turns = [_turn(message) for message in _messages(completion, "a completion")]
        answers = [parts for role, parts in turns if role is Role.ASSISTANT]
        parts = [_part(part, [], reader) for part in (answers[-1] if answers else [])] or [""]
    if strip_thinking:
        parts = [after_thinking(part) if isinstance(part, str) else part for part in parts]
    return to_candidates([tuple(parts)])[0]


def _key(sample: Sample) -> Hashable:
    # By digest: a picture of a megapixel is compared, and hashed, by 32 bytes.
    return sample.reference, tuple(
        (message.role, tuple(_identity(part) for part in message.parts))
        for message in sample.prompt
    )


def _identity(part: Part) -> Hashable:
    return part.wire_digest if isinstance(part, Image) else part


def _messages(value: ChatLike, what: str) -> Sequence[Mapping[str, Any]]:
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(message, Mapping) and "role" in message for message in value)
    ):
        return value
    raise TypeError(f"{what} must be a text or a list of messages, not {type(value).__name__}")


def _turn(message: Mapping[str, Any]) -> tuple[Role, list[str | Mapping[str, Any]]]:
    """Role, and parts: texts, and mappings that are or await a picture."""
    role = _ROLES.get(str(message["role"]))
    if role is None:
        raise ValueError(f"no such role: {message['role']!r}")
    content = message.get("content")
    if isinstance(content, str):
        return role, [content]
    parts: list[str | Mapping[str, Any]] = []
    for part in content or ():
        if isinstance(part, str):
            parts.append(part)
        elif part.get("type") == "text":
            parts.append(str(part["text"]))
        elif part.get("type") in ("image", "image_url"):
            parts.append(part)
        else:
            raise ValueError(f"a content part of type {part.get('type')!r} is not judged")
    if message.get("tool_calls"):
        parts.append(json.dumps(message["tool_calls"], default=str))
    return role, parts


def _part(part: str | Mapping[str, Any], waiting: list[Image], reader: PictureReader) -> Part:
    if isinstance(part, str):
        return part
    payload = picture_payload(part)
    if payload is not None:
        # Chat messages of the OpenAI kind have one more level: {"image_url": {"url": ...}}.
        return reader.picture(payload)
    if not waiting:
        raise ValueError("an image part without a picture")
    return waiting.pop(0)
