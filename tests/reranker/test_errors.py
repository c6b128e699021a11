"""Every failure that the contract or gRPC knows becomes a typed error that crosses processes."""

import copy
import pickle
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

import adjudge_reranker
from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import (
    DeadlineExceeded,
    ErrorReason,
    NothingJudged,
    RequestRefused,
    RewardClient,
    RewardError,
    ServerFault,
    ServerUnavailable,
)
from adjudge_reranker.errors import KIND_BY_CODE, KIND_BY_REASON, error_from_status
from tests.reranker.scripted import ScriptedService, fail, status

SCHEMA_REASONS = {
    name.removeprefix("ERROR_REASON_")
    for name, number in pb.ErrorReason.items()
    if number != pb.ERROR_REASON_UNSPECIFIED
}
KINDS = [
    kind
    for name in adjudge_reranker.__all__
    if isinstance(kind := getattr(adjudge_reranker, name), type) and issubclass(kind, RewardError)
]


def test_every_reason_of_the_schema_has_a_kind_and_no_other_has() -> None:
    assert {str(reason) for reason in KIND_BY_REASON} == SCHEMA_REASONS
    assert {reason.value for reason in ErrorReason} == SCHEMA_REASONS
    assert all(reason.value == reason.name for reason in ErrorReason)


def test_every_status_code_has_a_kind() -> None:
    assert set(KIND_BY_CODE) == set(grpc.StatusCode)


def test_every_kind_is_public_and_all_but_the_client_side_one_are_used() -> None:
    def below(kind: type[RewardError]) -> set[type[RewardError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    assert set(KINDS) == below(RewardError)
    used = set(KIND_BY_REASON.values()) | set(KIND_BY_CODE.values())
    assert used == set(KINDS) - {RewardError, NothingJudged}


@pytest.mark.parametrize("reason", sorted(SCHEMA_REASONS))
def test_a_reason_decides_the_kind_whatever_the_code(reason: str) -> None:
    for code in grpc.StatusCode:
        error = error_from_status(status(code, reason, field="candidates[3]"))
        assert type(error) is KIND_BY_REASON[reason]
        assert error.code is code
        assert error.reason == reason and error.reason is ErrorReason(reason)
        assert error.field == "candidates[3]"


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_a_code_decides_the_kind_where_there_is_no_reason_of_ours(code: grpc.StatusCode) -> None:
    for told in (status(code), status(code, "QUOTA", domain="example.com", field="x")):
        error = error_from_status(told)
        assert type(error) is KIND_BY_CODE[code]
        assert error.reason is None and error.metadata == {} and error.field is None


def test_a_reason_newer_than_the_client_keeps_its_name_and_goes_by_its_code() -> None:
    error = error_from_status(status(grpc.StatusCode.UNAVAILABLE, "MOON_TOO_FULL", phase="1"))
    assert type(error) is ServerUnavailable
    assert error.reason == "MOON_TOO_FULL" and error.metadata == {"phase": "1"}


def test_a_code_that_grpc_does_not_know_is_the_servers_fault() -> None:
    error = error_from_status(status_pb2.Status(code=4711, message="?"))
    assert type(error) is ServerFault and error.code is grpc.StatusCode.UNKNOWN


def test_retry_info_is_read_in_seconds() -> None:
    told = status(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry_after=1.25)
    assert error_from_status(told).retry_after_seconds == 1.25
    told = status(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry_after=0.0)
    assert error_from_status(told).retry_after_seconds == 0.0
    assert error_from_status(status(grpc.StatusCode.UNAVAILABLE)).retry_after_seconds is None


def trailing(code: grpc.StatusCode, trailer: bytes) -> Any:
    def step(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", trailer),))
        context.abort(code, "as told")

    return step


@pytest.mark.parametrize(
    "trailer",
    [b"\xff not a status", status(grpc.StatusCode.INTERNAL, "CRITIC_FAILURE").SerializeToString()],
    ids=["garbage", "about another code"],
)
def test_details_that_do_not_fit_leave_code_and_message(
    script: ScriptedService, scripted_client: RewardClient, trailer: bytes
) -> None:
    script.plan(trailing(grpc.StatusCode.NOT_FOUND, trailer))
    with pytest.raises(RequestRefused, match="as told") as caught:
        scripted_client.model()
    assert caught.value.reason is None and caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_calls_status_arrives_whole(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT
    script.plan(fail(code, "LIMIT_EXCEEDED", message="too much", field="prompt", maximum="8"))
    with pytest.raises(RequestRefused) as caught:
        scripted_client.model()
    error = caught.value
    assert error.message == "too much"
    assert str(error) == "too much [LIMIT_EXCEEDED prompt]"
    assert error.metadata == {"field": "prompt", "maximum": "8"}
    assert isinstance(error.__cause__, grpc.RpcError)


texts = st.text(max_size=20)
states = st.fixed_dictionaries(
    {
        "code": st.sampled_from(list(grpc.StatusCode)),
        "reason": st.one_of(st.none(), texts, st.sampled_from(list(ErrorReason))),
        "metadata": st.dictionaries(texts, texts, max_size=3),
        "retry_after_seconds": st.one_of(st.none(), st.floats(0, 100)),
    }
)


@given(kind=st.sampled_from([k for k in KINDS if k is not NothingJudged]), text=texts, state=states)
def test_errors_survive_pickling_and_copying(kind, text, state) -> None:
    error = kind(text, **state)
    error.add_note("seen from worker 3")
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(twin) is kind
        assert twin.__dict__ == error.__dict__
        assert (str(twin), twin.args) == (str(error), error.args)


def test_what_was_not_judged_survives_pickling_with_its_failures() -> None:
    error = NothingJudged("none", failures=[DeadlineExceeded("late"), ServerFault("bug")])
    twin = pickle.loads(pickle.dumps(error))
    assert [str(failure) for failure in twin.failures] == [str(f) for f in error.failures]
