"""What a request holds, free of protobuf: messages, candidates, pictures not yet decoded."""

import hashlib
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A picture as a file: PNG, JPEG…"""

    data: bytes

    def wire_digest(self) -> bytes:
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True, slots=True)
class RawImage:
    """A picture as pixels: 8 bits a channel, interleaved, rows from the top without padding."""

    mode: str
    """"L", "RGB" or "RGBA"."""
    width: int
    height: int
    data: bytes

    def wire_digest(self) -> bytes:
        header = f"{self.mode} {self.width} {self.height}\n".encode("ascii")
        return hashlib.sha256(header + self.data).digest()


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A picture sent before, by its 32-byte wire digest."""

    digest: bytes


WireImage = EncodedImage | RawImage | ImageReference
Part = str | WireImage


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Question:
    """What every request says before it says what it wants judged."""

    prompt: tuple[Message, ...]
    template: str
    """Empty: the critic's default of the kind that is needed."""
    reference: str | None = None
    rubric: str | None = None
