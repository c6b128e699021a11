"""The client that blocks. `aio` has its twin; how calls are made is in `calls`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import decode, encode
from adjudge_reranker.access import Tls, resolve_access
from adjudge_reranker.addresses import checked_addresses
from adjudge_reranker.calls import Calls
from adjudge_reranker.channel import DEFAULT_MAX_MESSAGE_BYTES
from adjudge_reranker.content import CandidateLike, PromptLike
from adjudge_reranker.decode_model import model_info
from adjudge_reranker.encode import Draft
from adjudge_reranker.endpoints import affinity_key
from adjudge_reranker.errors import error_from_rpc
from adjudge_reranker.lifetime import Blocking
from adjudge_reranker.model_info import ModelInfo
from adjudge_reranker.parts import COMPARE, SCORE
from adjudge_reranker.retry import (
    NOT_GIVEN,
    Budget,
    NotGiven,
    RetryPolicy,
    Timeout,
    checked_timeout,
    resolve_timeout,
)
from adjudge_reranker.slots import DEFAULT_MAX_IN_FLIGHT, checked_max_in_flight
from adjudge_reranker.types import (
    CompareResult,
    CritiqueEvent,
    OrderPolicy,
    Provenance,
    Readout,
    ScoreResult,
)


class RewardClient(Blocking):
    """Asks a server what its critic thinks of candidates.

    with RewardClient("127.0.0.1:50051") as client:
        result = client.score("What is 2 + 2?", ["4", "5"])

    Safe to share between threads and to pickle, and usable in a child process forked after calls
    were made if `GRPC_ENABLE_FORK_SUPPORT=1` was set before gRPC was imported (see `channel`): it
    connects when it is first used, in each process by itself.

    Every method takes a `timeout` in seconds for the whole call, retries and all parts of a large
    request included; None waits without limit. Every method raises a `RewardError` if the call
    failed as a whole, TypeError or ValueError if its arguments make no request, and RuntimeError
    after `close`.
    """

    def __init__(
        self,
        address: str | Sequence[str] = "127.0.0.1:50051",
        *,
        token: str | Path | NotGiven | None = NOT_GIVEN,
        tls: Tls | NotGiven | None = NOT_GIVEN,
        token_over_plaintext: bool = False,
        timeout: float | None = 60.0,
        retry: RetryPolicy | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
    ) -> None:
        """`timeout` is that of calls which give none; `max_message_bytes` holds both ways.

        Of several addresses a call goes to the one whose caches should have its pictures, or its
        prompt where it has none; to another if that one is busy or failed. They must serve the same
        model and weights. A result of a model of another name than earlier ones, or of two
        fingerprints, is a ServerFault; that two results are of different weights under one name,
        their fingerprints tell. `dns:///host:port` stands for all servers that the name has an
        address of, looked up again while the client is used (see `names`).

        At most `max_in_flight` calls are made at a time, by all threads together; others wait,
        within their timeout. Critiques count until their first event.

        `token` opens a server that asks for one; a Path is that of a file that holds it, which may
        be replaced while the client lives. It goes in plain text to this machine only, unless
        `token_over_plaintext`. With `tls` the client speaks TLS. Where they are left out the
        environment decides (see `access`), and None is none whatever it says. Raises ValueError for
        an address that makes no sense, and for a token or files that cannot be used.
        """
        if timeout is not None:
            checked_timeout(timeout)
        self._addresses = checked_addresses(address)
        self._access = resolve_access(
            self._addresses, token, tls, token_over_plaintext=token_over_plaintext
        )
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._max_message_bytes = max_message_bytes
        self._max_in_flight = checked_max_in_flight(max_in_flight)
        self._calls = self._make_calls()

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
        """How good is each candidate? One outcome each, in order.

        More candidates than the server takes at a time go in several calls. Then a call that fails
        for good is the `Failure` of its candidates only, and is raised only if none succeeded; a
        ServerFault says that they were judged by different models, or by another than earlier ones.
        """
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
        return self._calls.judge(
            draft, SCORE, lambda stub: stub.ScoreCandidates, self._budget(timeout)
        )

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

        One outcome a pair, in order. Positive margins favour the first of the pair. Large requests
        go in several calls, as those of `score`.
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
        return self._calls.judge(
            draft, COMPARE, lambda stub: stub.CompareCandidates, self._budget(timeout)
        )

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
        self._calls.pools.get()  # a closed client says so here, not at the first event
        return self._events(draft, resolve_timeout(timeout, self._timeout))

    def model(self, name: str | None = None, *, timeout: Timeout = NOT_GIVEN) -> ModelInfo:
        """Describes a model of the server: its identity, templates and limits."""
        request = encode.model_request(name)
        response = self._calls.call(request, lambda stub: stub.GetModel, self._budget(timeout))
        return model_info(response)

    def close(self) -> None:
        self._calls.pools.close()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_calls"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._calls = self._make_calls()

    def _budget(self, timeout: Timeout) -> Budget:
        return Budget(resolve_timeout(timeout, self._timeout), self._retry)

    def _make_calls(self) -> Calls:
        return Calls(
            self._addresses,
            access=self._access,
            retry=self._retry,
            max_message_bytes=self._max_message_bytes,
            max_in_flight=self._max_in_flight,
        )

    def _events(
        self, draft: Draft[pb.CritiqueCandidatesRequest], timeout: float | None
    ) -> Iterator[CritiqueEvent]:
        reader = decode.CritiqueReader(len(draft.options.pairs) or len(draft.candidates))
        # Pictures go whole: a critique takes seconds, and a digest that the server does not know
        # could turn up as the failure of one item in the middle of the stream.
        request = draft.request()
        messages, cancel = self._calls.open(
            request, affinity_key(draft.prompt), Budget(timeout, self._retry)
        )
        try:
            for message in messages:
                event = reader.read(message)
                if isinstance(event, Provenance):
                    self._calls.one_model.check(draft.options.model, event)
                if event is not None:
                    yield event
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        finally:
            cancel()
        reader.finish()
