"""The failures of the schema and those of the server are the same ones."""

import re
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import errors
from adjudge_server.errors import AdjudgeError, InvalidRequest, QueueFull, UndecodableImage
from adjudge_server.wire import write_error

SCHEMA = Path(pb.__file__).with_name("reward.proto")


def subclasses(of: type[AdjudgeError]) -> set[type[AdjudgeError]]:
    return set(of.__subclasses__()).union(*(subclasses(child) for child in of.__subclasses__()))


# By module, so that what a test defines is none of the server's.
CLASSES = sorted(
    (c for c in subclasses(AdjudgeError) if c.__module__ == errors.__name__),
    key=lambda c: c.__name__,
)
REASONS = set(pb.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


def promised() -> dict[str, tuple[str, bool]]:
    """Of each reason, the code that the schema's comment promises, and whether a RetryInfo."""
    enum = SCHEMA.read_text(encoding="utf-8").partition("enum ErrorReason {")[2]
    comment = r"// ([A-Z_]+)(, with RetryInfo)?: .*\n(?:  // .*\n)*  (ERROR_REASON_\w+) = \d+;"
    found = re.findall(comment, enum)
    return {reason: (code, bool(retry)) for code, retry, reason in found}


def test_every_reason_has_one_class_and_every_class_has_one_reason() -> None:
    spoken = [f"ERROR_REASON_{c.reason}" for c in CLASSES]
    assert len(spoken) == len(set(spoken))
    assert set(spoken) == REASONS


def test_the_schema_promises_a_code_for_every_reason() -> None:
    assert set(promised()) == REASONS


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_each_class_has_the_code_that_the_schema_promises(error: type[AdjudgeError]) -> None:
    code, retry = promised()[f"ERROR_REASON_{error.reason}"]
    assert error.code is grpc.StatusCode[code]
    assert (error.retry_after_seconds is not None) == retry
    assert retry == (error.code is grpc.StatusCode.UNAVAILABLE)


def unpacked(status: status_pb2.Status) -> list[object]:
    """Its details, each as what it says it is."""
    kinds = {
        kind.DESCRIPTOR.full_name: kind
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)
    }
    details = []
    for packed in status.details:
        detail = kinds[packed.type_url.rpartition("/")[2]]()
        assert packed.Unpack(detail)
        details.append(detail)
    return details


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_a_written_error_says_code_message_and_exactly_one_error_info(
    error: type[AdjudgeError],
) -> None:
    status = write_error(error("what went wrong", field="candidates[3]", actual=7))
    assert status.code == error.code.value[0]
    assert status.message == "what went wrong"
    info, *retry = unpacked(status)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "adjudge"
    assert info.reason == f"ERROR_REASON_{error.reason}"
    assert dict(info.metadata) == {"field": "candidates[3]", "actual": "7"}
    assert len(retry) == (error.code is grpc.StatusCode.UNAVAILABLE)


def test_a_written_error_says_when_to_come_back() -> None:
    _, retry = unpacked(write_error(QueueFull("full")))
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToNanoseconds() == QueueFull.retry_after_seconds * 1e9


def test_within_places_a_field_under_another() -> None:
    inner = UndecodableImage("broken", field="raw.data", other=1)
    moved = inner.within("prompt[0].parts[1]")
    assert type(moved) is UndecodableImage
    assert moved.message == str(moved) == "broken"
    assert moved.metadata == {"field": "prompt[0].parts[1].raw.data", "other": "1"}
    assert inner.metadata["field"] == "raw.data", "the error itself is left as it was"


def test_within_names_the_whole_where_no_field_was_to_blame() -> None:
    assert InvalidRequest("wrong").within("prompt").metadata == {"field": "prompt"}
    assert InvalidRequest("wrong").within("b").within("a").metadata == {"field": "a.b"}


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_class_can_be_placed(error: type[AdjudgeError]) -> None:
    moved = error("wrong", limit="x").within("candidates[0]")
    assert type(moved) is error
    assert moved.metadata == {"limit": "x", "field": "candidates[0]"}
