"""The client that blocks. `aio` has its twin; what the two share is in encode, decode and retry."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import decode, encode
from adjudge_reranker.channel import DEFAULT_MAX_MESSAGE_BYTES, Connections
from adjudge_reranker.content import CandidateLike, PromptLike
from adjudge_reranker.decode_model import model_info
from adjudge_reranker.encode import Draft, RequestT
from adjudge_reranker.errors import ErrorReason, RewardError, error_from_rpc
from adjudge_reranker.model_info import ModelInfo
from adjudge_reranker.retry import (
    NOT_GIVEN,
    Budget,
    RetryPolicy,
    Timeout,
    checked_timeout,
    resolve_timeout,
    run,
)
from adjudge_reranker.types import CompareResult, CritiqueEvent, OrderPolicy, Readout, ScoreResult

if TYPE_CHECKING:
    # Generic for type checkers only.
    from grpc import UnaryUnaryMultiCallable as _Unary

    from adjudge.v1.reward_pb2_grpc import RewardServiceStub

AnyRequestT = TypeVar("AnyRequestT")
ResponseT = TypeVar("ResponseT", pb.ScoreCandidatesResponse, pb.CompareCandidatesResponse)
AnyResponseT = TypeVar("AnyResponseT")
_Messages: TypeAlias = Iterator[pb.CritiqueCandidatesResponse]


class RewardClient:
    """Asks a server what its critic thinks of candidates.

    with RewardClient("127.0.0.1:50051") as client:
        result = client.score("What is 2 + 2?", ["4", "5"])

    Safe to share between threads and to pickle, and usable in a child process forked after calls
    were made (see `channel`): it connects when it is first used, in each process by itself.

    Every method takes a `timeout` in seconds for the whole call, retries included; None waits
    without limit. Every method raises a `RewardError` if the call failed as a whole, TypeError or
    ValueError if its arguments make no request, and RuntimeError after `close`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout: float | None = 60.0,
        retry: RetryPolicy | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """`timeout` is that of calls which give none; `max_message_bytes` holds both ways."""
        if timeout is not None:
            checked_timeout(timeout)
        self._address = address
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._max_message_bytes = max_message_bytes
        self._connections = Connections(address, max_message_bytes)

    def score(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        expected_epoch: int | None = None,
        readout: Readout = Readout.DIRECT,
        include_distribution: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> ScoreResult:
        """How good is each candidate? One outcome each, in order."""
        draft = encode.score_draft(
            prompt,
            candidates,
            template=template,
            reference=reference,
            rubric=rubric,
            model=model,
            expected_epoch=expected_epoch,
            readout=readout,
            include_distribution=include_distribution,
        )
        response = self._exchange(draft, lambda stub: stub.ScoreCandidates, timeout)
        return decode.score_result(response, len(draft.candidates))

    def compare(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        pairs: Iterable[tuple[int, int]],
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        expected_epoch: int | None = None,
        readout: Readout = Readout.DIRECT,
        order_policy: OrderPolicy = OrderPolicy.BOTH,
        timeout: Timeout = NOT_GIVEN,
    ) -> CompareResult:
        """Which candidate of each pair (two indices into `candidates`) is better, by how much?

        One outcome a pair, in order. Positive margins favour the first of the pair.
        """
        draft = encode.compare_draft(
            prompt,
            candidates,
            pairs,
            template=template,
            reference=reference,
            rubric=rubric,
            model=model,
            expected_epoch=expected_epoch,
            readout=readout,
            order_policy=order_policy,
        )
        response = self._exchange(draft, lambda stub: stub.CompareCandidates, timeout)
        return decode.compare_result(response, len(draft.options.pairs))

    def critique(
        self,
        prompt: PromptLike,
        candidates: Sequence[CandidateLike],
        pairs: Iterable[tuple[int, int]] = (),
        *,
        template: str | None = None,
        reference: str | None = None,
        rubric: str | None = None,
        model: str | None = None,
        expected_epoch: int | None = None,
        max_critique_tokens: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> Iterator[CritiqueEvent]:
        """What does the critic write about each candidate, or about each pair if there are any?

        The call is made when the first event is asked for, and cancelled when the iterator is
        closed. The timeout covers all of it, the caller's own work between events included.
        A failure after the first event is raised from the iterator and not retried.
        """
        draft = encode.critique_draft(
            prompt,
            candidates,
            pairs,
            template=template,
            reference=reference,
            rubric=rubric,
            model=model,
            expected_epoch=expected_epoch,
            max_critique_tokens=max_critique_tokens,
        )
        self._connections.get()  # a closed client says so here, not at the first event
        return self._events(draft, resolve_timeout(timeout, self._timeout))

    def model(self, name: str | None = None, *, timeout: Timeout = NOT_GIVEN) -> ModelInfo:
        """Describes a model of the server: its identity, templates and limits."""
        request = encode.model_request(name)
        response = self._call(request, lambda stub: stub.GetModel, self._budget(timeout))
        return model_info(response)

    def close(self) -> None:
        """Ends the calls in progress and refuses new ones."""
        self._connections.close()

    def __enter__(self) -> "RewardClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_connections"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connections = Connections(self._address, self._max_message_bytes)

    def _budget(self, timeout: Timeout) -> Budget:
        return Budget(resolve_timeout(timeout, self._timeout), self._retry)

    def _call(
        self,
        request: AnyRequestT,
        method: "Callable[[RewardServiceStub], _Unary[AnyRequestT, AnyResponseT]]",
        budget: Budget,
    ) -> AnyResponseT:
        def attempt(remaining: float | None) -> AnyResponseT:
            try:
                return method(self._connections.get().stub)(request, timeout=remaining)
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error

        return run(attempt, budget)

    def _exchange(
        self,
        draft: Draft[RequestT],
        method: "Callable[[RewardServiceStub], _Unary[RequestT, ResponseT]]",
        timeout: Timeout,
    ) -> ResponseT:
        """Sends pictures by digest where the server should know them, and whole if it does not."""
        budget = self._budget(timeout)
        sent = self._connections.get().sent
        digests = draft.digests
        known = sent.known(digests)
        try:
            response = self._call(draft.request(known), method, budget)
            retained = not (known and decode.lacks_pictures(response))
        except RewardError as error:
            if not known or error.reason != ErrorReason.UNKNOWN_IMAGE:
                raise
            retained = False
        if not retained:
            sent.forget(digests)
            response = self._call(draft.request(), method, budget)
        sent.remember(digests)
        return response

    def _events(
        self, draft: Draft[pb.CritiqueCandidatesRequest], timeout: float | None
    ) -> Iterator[CritiqueEvent]:
        reader = decode.CritiqueReader(len(draft.options.pairs) or len(draft.candidates))
        # Pictures go whole: a critique takes seconds, and a digest that the server does not know
        # could turn up as the failure of one item in the middle of the stream.
        request = draft.request()
        messages, cancel = run(
            lambda remaining: self._open(request, remaining), Budget(timeout, self._retry)
        )
        try:
            for message in messages:
                event = reader.read(message)
                if event is not None:
                    yield event
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        finally:
            cancel()
        reader.finish()

    def _open(
        self, request: pb.CritiqueCandidatesRequest, remaining: float | None
    ) -> tuple[_Messages, Callable[[], object]]:
        """The stream, once its first message is there, before which the call may be repeated; and
        what cancels it."""
        call = self._connections.get().stub.CritiqueCandidates(request, timeout=remaining)
        messages = iter(call)
        try:
            first = list(itertools.islice(messages, 1))
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return itertools.chain(first, messages), call.cancel
