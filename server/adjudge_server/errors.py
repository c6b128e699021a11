"""What can go wrong, as the caller will see it.

    AdjudgeError
    ├── InvalidRequest            a field is missing or malformed
    │   ├── LimitExceeded         …or larger than the server allows
    │   ├── UndecodableImage      …or not a picture
    │   ├── UnsupportedContent    …or the template has no place for it
    │   ├── UnsupportedOperation  …or the model or template does not do this
    │   └── InputTooLong          …or the item does not fit the critic
    ├── UnknownTemplate, UnknownModel, UnknownImage
    ├── WrongEpoch
    ├── PathNotAllowed, WeightsRefused    new weights that are not loaded
    ├── Unauthenticated               a stranger, who is told nothing else
    ├── OffFormat, VerdictNotFound    the critic did not answer in the template's format
    ├── QueueFull, NotReady           the only ones worth a retry
    ├── DeadlineExceeded
    └── CriticFailure                 our fault

An error belongs to a whole call or to one item; which one is decided by where it is caught, not by
its class. `metadata` is for programs, the message for people; no message repeats what a request
said, but the name of a model or template that is not there, `shortened`.
"""

from collections.abc import Mapping
from typing import ClassVar

import grpc


def shortened(text: str, length: int = 100) -> str:
    """For messages, which travel in headers: gRPC lets those have 8 KiB together."""
    return text if len(text) <= length else f"{text[:length]}…"


class AdjudgeError(Exception):
    """Base of every failure that a caller is told about."""

    code: ClassVar[grpc.StatusCode]
    reason: ClassVar[str]
    """Name of the schema's ErrorReason, without its prefix."""
    retry_after_seconds: ClassVar[float | None] = None

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = {key: str(value) for key, value in metadata.items()}

    def within(self, field: str) -> "AdjudgeError":
        """The same error, with its field (or the whole of it) placed under `field`."""
        inner = self.metadata.get("field")
        moved = type(self)(self.message)
        moved.metadata = {**self.metadata, "field": f"{field}.{inner}" if inner else field}
        return moved


class InvalidRequest(AdjudgeError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class LimitExceeded(InvalidRequest):
    reason = "LIMIT_EXCEEDED"


class UndecodableImage(InvalidRequest):
    reason = "UNDECODABLE_IMAGE"


class UnsupportedContent(InvalidRequest):
    reason = "UNSUPPORTED_CONTENT"


class InputTooLong(InvalidRequest):
    reason = "INPUT_TOO_LONG"


class UnsupportedOperation(InvalidRequest):
    reason = "UNSUPPORTED_OPERATION"


class UnknownTemplate(AdjudgeError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_TEMPLATE"


class UnknownModel(AdjudgeError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_MODEL"


class UnknownImage(AdjudgeError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_IMAGE"


class WrongEpoch(AdjudgeError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "WRONG_EPOCH"


class PathNotAllowed(AdjudgeError):
    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PATH_NOT_ALLOWED"


class WeightsRefused(AdjudgeError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "WEIGHTS_REFUSED"


class Unauthenticated(AdjudgeError):
    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class OffFormat(AdjudgeError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "OFF_FORMAT"


class VerdictNotFound(AdjudgeError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "VERDICT_NOT_FOUND"


class QueueFull(AdjudgeError):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "QUEUE_FULL"
    retry_after_seconds = 0.5


class NotReady(AdjudgeError):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "NOT_READY"
    retry_after_seconds = 1.0


class DeadlineExceeded(AdjudgeError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class CriticFailure(AdjudgeError):
    code = grpc.StatusCode.INTERNAL
    reason = "CRITIC_FAILURE"


def as_failure(error: BaseException) -> AdjudgeError:
    """What the caller is told of an exception of ours: only its type, for its message may hold
    pieces of a request."""
    if isinstance(error, AdjudgeError):
        return error
    failure = CriticFailure(f"the critic raised {type(error).__name__}")
    failure.__cause__ = error
    return failure
