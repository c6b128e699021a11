"""What can go wrong, sorted by what the caller can do about it.

    RewardError
    ├── RequestRefused      will never work: something in the request has to change
    ├── CriticUnreadable    the critic did not answer in the template's format
    ├── ServerUnavailable   try later; the client already did, for as long as the timeout allowed
    ├── DeadlineExceeded    too slow
    ├── ServerFault         a bug, in the server or between it and this client
    └── NothingJudged       a ranking in which every candidate failed

An error stands for a whole call (then it is raised) or for one item of it (then it is held by a
`Failure`); which one is decided by where it is found, not by its class. Mistakes that can be seen
without a server, such as a candidate of the wrong type, are Python's own TypeError and ValueError.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from adjudge_reranker import handshakes

_DOMAIN = "adjudge"
_PREFIX = "ERROR_REASON_"
_DETAILS_KEY = "grpc-status-details-bin"


class ErrorReason(StrEnum):
    """The contract's ErrorReason, without its prefix; the schema documents each."""

    INVALID_REQUEST = "INVALID_REQUEST"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    UNDECODABLE_IMAGE = "UNDECODABLE_IMAGE"
    UNSUPPORTED_CONTENT = "UNSUPPORTED_CONTENT"
    INPUT_TOO_LONG = "INPUT_TOO_LONG"
    UNSUPPORTED_OPERATION = "UNSUPPORTED_OPERATION"
    UNKNOWN_TEMPLATE = "UNKNOWN_TEMPLATE"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNKNOWN_IMAGE = "UNKNOWN_IMAGE"
    WRONG_EPOCH = "WRONG_EPOCH"
    OFF_FORMAT = "OFF_FORMAT"
    VERDICT_NOT_FOUND = "VERDICT_NOT_FOUND"
    QUEUE_FULL = "QUEUE_FULL"
    NOT_READY = "NOT_READY"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CRITIC_FAILURE = "CRITIC_FAILURE"
    PATH_NOT_ALLOWED = "PATH_NOT_ALLOWED"
    WEIGHTS_REFUSED = "WEIGHTS_REFUSED"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class RewardError(Exception):
    """Base of every failure to judge. Survives pickling, so it can cross process borders."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        """An ErrorReason, the name of a newer one, or None if the failure is not Adjudge's own,
        such as a refused connection."""
        self.metadata: dict[str, str] = dict(metadata or {})
        """What the reason adds, for programs; the schema says which keys each reason has."""
        self.retry_after_seconds = retry_after_seconds
        """How long the server asks to be left alone, in seconds; None if it did not say."""

    @property
    def field(self) -> str | None:
        """The field to blame, such as "candidates[3].parts[0]"; None if there is no one field."""
        return self.metadata.get("field")

    def __str__(self) -> str:
        context = " ".join(part for part in (self.reason or self.code.name, self.field) if part)
        return f"{self.message} [{context}]"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from `args`, which holds the message alone: the rest is state.
        return type(self), (self.message,), self.__dict__


class RequestRefused(RewardError):
    """The request cannot be served, now or later: a field, a limit, a name or a right is wrong."""


class CriticUnreadable(RewardError):
    """The critic would not have answered, or did not answer, in the template's format."""


class ServerUnavailable(RewardError):
    """The server cannot be reached, is not ready, or has no room; a later call may succeed."""


class DeadlineExceeded(RewardError):
    """The timeout passed. Nothing is known about the reward."""


class ServerFault(RewardError):
    """The server failed, or answered something that the contract does not allow; or endpoints of
    one client serve different models."""


def is_of_another_model(error: RewardError) -> bool:
    """Whether results were refused because they are not all of one model: no passing fault."""
    return isinstance(error, ServerFault) and error.code is grpc.StatusCode.FAILED_PRECONDITION


class NothingJudged(RewardError):
    """No candidate has a reward, so none can be the best."""

    def __init__(self, message: str, *, failures: Iterable[RewardError] = ()) -> None:
        super().__init__(message)
        self.failures = tuple(failures)
        """Why each candidate has no reward, in the candidates' order."""

    def __str__(self) -> str:
        return self.message  # which has the reasons; there is no call that failed, and no code


KIND_BY_REASON: Final[Mapping[str, type[RewardError]]] = {
    ErrorReason.INVALID_REQUEST: RequestRefused,
    ErrorReason.LIMIT_EXCEEDED: RequestRefused,
    ErrorReason.UNDECODABLE_IMAGE: RequestRefused,
    ErrorReason.UNSUPPORTED_CONTENT: RequestRefused,
    ErrorReason.INPUT_TOO_LONG: RequestRefused,
    ErrorReason.UNSUPPORTED_OPERATION: RequestRefused,
    ErrorReason.UNKNOWN_TEMPLATE: RequestRefused,
    ErrorReason.UNKNOWN_MODEL: RequestRefused,
    ErrorReason.UNKNOWN_IMAGE: RequestRefused,
    ErrorReason.WRONG_EPOCH: RequestRefused,
    ErrorReason.OFF_FORMAT: CriticUnreadable,
    ErrorReason.VERDICT_NOT_FOUND: CriticUnreadable,
    ErrorReason.QUEUE_FULL: ServerUnavailable,
    ErrorReason.NOT_READY: ServerUnavailable,
    ErrorReason.DEADLINE_EXCEEDED: DeadlineExceeded,
    ErrorReason.CRITIC_FAILURE: ServerFault,
    ErrorReason.PATH_NOT_ALLOWED: RequestRefused,
    ErrorReason.WEIGHTS_REFUSED: RequestRefused,
    ErrorReason.UNAUTHENTICATED: RequestRefused,
}

# For failures without a reason of ours: gRPC's own, a proxy's, or a newer server's.
KIND_BY_CODE: Final[Mapping[grpc.StatusCode, type[RewardError]]] = {
    grpc.StatusCode.OK: ServerFault,  # a failure that says it is none
    grpc.StatusCode.CANCELLED: ServerUnavailable,  # by the other side, or by closing the client
    grpc.StatusCode.UNKNOWN: ServerFault,
    grpc.StatusCode.INVALID_ARGUMENT: RequestRefused,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: RequestRefused,
    grpc.StatusCode.ALREADY_EXISTS: RequestRefused,
    grpc.StatusCode.PERMISSION_DENIED: RequestRefused,
    # gRPC's code for a message over the size limit, which stays over it.
    grpc.StatusCode.RESOURCE_EXHAUSTED: RequestRefused,
    grpc.StatusCode.FAILED_PRECONDITION: RequestRefused,
    grpc.StatusCode.ABORTED: ServerUnavailable,
    grpc.StatusCode.OUT_OF_RANGE: RequestRefused,
    grpc.StatusCode.UNIMPLEMENTED: RequestRefused,
    grpc.StatusCode.INTERNAL: ServerFault,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.DATA_LOSS: ServerFault,
    grpc.StatusCode.UNAUTHENTICATED: RequestRefused,
}

_RESOURCE_EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_CODE_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def error_from_status(status: status_pb2.Status) -> RewardError:
    """The error that a `google.rpc.Status`, of a call or of one item, stands for."""
    code = _CODE_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    reason: str | None = None
    retry_after_seconds: float | None = None
    for detail in status.details:
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason = _known(info.reason.removeprefix(_PREFIX))
        elif detail.Unpack(retry):
            delay = retry.retry_delay
            retry_after_seconds = delay.seconds + delay.nanos / 1e9
    kind = KIND_BY_REASON.get(reason) if reason else None
    return (kind or KIND_BY_CODE[code])(
        status.message,
        code=code,
        reason=reason,
        metadata=dict(info.metadata) if reason else None,
        retry_after_seconds=retry_after_seconds,
    )


def error_from_rpc(error: grpc.RpcError) -> RewardError:
    """The error that a failed call, synchronous or not, stands for."""
    code, said = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        if handshakes.is_refused(said):
            # Another code than gRPC's, for UNAVAILABLE is what is worth repeating.
            return RequestRefused(
                f"the TLS handshake failed, as it would again: {said} (check the authorities given"
                " as ca or ADJUDGE_TLS_CA, the name in the server's certificate, its dates, and"
                " whether the server speaks TLS)",
                code=grpc.StatusCode.UNAUTHENTICATED,
            )
        if handshakes.may_be_refused(said):
            said += (
                " (so does a server that wants TLS, or a client certificate of its own authorities"
                " that has not expired)"
            )
    status = status_pb2.Status(code=code.value[0], message=said)
    # Read here rather than with grpcio-status, each release of which caps protobuf.
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in trailers:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            _merge_details(status, value)
    return _too_large(status) or error_from_status(status)


_TOO_LARGE: Final = re.compile(
    r"(CLIENT|SERVER): (Sent|Received) message larger than max \((\d+) vs\. (\d+)\)"
)


def _too_large(status: status_pb2.Status) -> RewardError | None:
    """What gRPC says only in words, where either end refuses a message for its size."""
    match = _TOO_LARGE.search(status.message)
    if match is None or status.details or status.code != _RESOURCE_EXHAUSTED:
        return None
    side, done, actual, maximum = match.groups()
    answered = (side == "SERVER") == (done == "Sent")
    return RequestRefused(
        f"the {'answer' if answered else 'request'} has {actual} bytes, the"
        f" {'client' if side == 'CLIENT' else 'server'} takes messages of {maximum}"
        " (max_message_bytes)",
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason=ErrorReason.LIMIT_EXCEEDED,
        metadata={"limit": "max_message_bytes", "maximum": maximum, "actual": actual},
    )


def _merge_details(status: status_pb2.Status, serialized: bytes) -> None:
    """Adds the details in `serialized` to `status`, unless they are about something else."""
    try:
        detailed = status_pb2.Status.FromString(serialized)
    except DecodeError:
        return  # the code and the message still tell what happened
    if detailed.code == status.code:
        status.CopyFrom(detailed)


def _known(reason: str) -> str:
    return ErrorReason(reason) if reason in ErrorReason.__members__ else reason
