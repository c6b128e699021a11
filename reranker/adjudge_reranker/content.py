"""What is judged: prompts made of messages, candidates made of parts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, TypeVar

from adjudge_reranker.pictures import Image, ImageLike, to_image

_T = TypeVar("_T")


class Role(StrEnum):
    """Who speaks in a message of the prompt."""

    SYSTEM = "system"
    """Instructions to the model whose responses are judged."""
    USER = "user"
    """The person asking."""
    ASSISTANT = "assistant"
    """An earlier turn of the model."""


Part: TypeAlias = str | Image
"""A piece of text, or a picture."""
Candidate: TypeAlias = tuple[Part, ...]

PartLike: TypeAlias = str | ImageLike
"""A string is always text, never a path or a URL; `ImageLike` says what is a picture."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the prompt. `Message.user(picture, "What is this?")` is the short way."""

    role: Role
    parts: tuple[Part, ...]
    """At least one. Texts are joined as they stand."""

    @classmethod
    def system(cls, *parts: PartLike) -> "Message":
        return cls(Role.SYSTEM, _to_parts(parts))

    @classmethod
    def user(cls, *parts: PartLike) -> "Message":
        return cls(Role.USER, _to_parts(parts))

    @classmethod
    def assistant(cls, *parts: PartLike) -> "Message":
        return cls(Role.ASSISTANT, _to_parts(parts))


# One Sequence and not two: type checkers cannot infer a list literal against a choice of them.
PromptLike: TypeAlias = str | Sequence[PartLike | Message]
"""A text, or texts and pictures (either is one turn of the user), or whole messages, not mixed."""
CandidateLike: TypeAlias = str | Sequence[PartLike]
"""A text, or texts and pictures."""


def to_prompt(prompt: PromptLike) -> tuple[Message, ...]:
    """The messages of a prompt. Raises TypeError for anything that is not a `PromptLike`."""
    if isinstance(prompt, str):
        return (Message.user(prompt),)
    parts: list[PartLike] = []
    messages: list[Message] = []
    for part in _sequence(prompt, "the prompt", "texts, pictures or messages"):
        if isinstance(part, Message):
            messages.append(part)
        else:
            parts.append(part)
    if messages and parts:
        raise TypeError("the prompt mixes messages with bare parts: put the parts into messages")
    return tuple(messages) if messages else (Message.user(*parts),)


def to_candidates(candidates: Sequence[CandidateLike]) -> tuple[Candidate, ...]:
    """The candidates, each as its parts. Raises TypeError or ValueError, naming the candidate, if
    one is not what it should be."""
    return tuple(
        _to_candidate(one, f"candidates[{index}]")
        for index, one in enumerate(_sequence(candidates, "candidates"))
    )


def _to_candidate(candidate: CandidateLike, name: str) -> Candidate:
    if isinstance(candidate, str):
        return (_text(candidate, name),)
    return _to_parts(_sequence(candidate, name, "texts and pictures"), name)


def _to_parts(parts: Iterable[PartLike], name: str = "the prompt") -> tuple[Part, ...]:
    return tuple(
        _text(part, name) if isinstance(part, str) else _picture(part, name) for part in parts
    )


def _picture(part: ImageLike, name: str) -> Image:
    try:
        return to_image(part)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _text(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has a lone surrogate, which is no character") from error
    return text


def _sequence(value: Sequence[_T], what: str, of: str = "") -> Sequence[_T]:
    """`of`: what is in it, where a text may also stand for the whole."""
    # Strings and bytes are sequences, of what nobody means here.
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return value
    expected = f"a text, or a list or tuple of {of}" if of else "a list or tuple"
    raise TypeError(f"{what} must be {expected}, not {type(value).__name__}")
