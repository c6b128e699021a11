"""How the blocking client makes its calls: which server, how many at a time, how often, how large.
`aio_calls` has the twin for asyncio.
"""

import contextvars
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import decode
from adjudge_reranker.access import Access
from adjudge_reranker.assembly import Assembly, Job
from adjudge_reranker.channel import Connection, Connections
from adjudge_reranker.decode_model import model_info
from adjudge_reranker.encode import Draft, RequestT, model_request
from adjudge_reranker.endpoints import affinity_key
from adjudge_reranker.errors import ErrorReason, RequestRefused, RewardError, error_from_rpc
from adjudge_reranker.halting import Halt
from adjudge_reranker.model_info import Limits
from adjudge_reranker.one_model import OneModel
from adjudge_reranker.parts import Part, Question, ResponseT, ResultT, is_too_large
from adjudge_reranker.retry import Budget, RetryPolicy, run
from adjudge_reranker.servers import Servers
from adjudge_reranker.slots import Slots

if TYPE_CHECKING:
    # Generic for type checkers only.
    from grpc import UnaryUnaryMultiCallable as _Unary

    from adjudge.v1.reward_pb2_grpc import RewardServiceStub

AnyRequestT = TypeVar("AnyRequestT")
AnyResponseT = TypeVar("AnyResponseT")
T = TypeVar("T")
Messages: TypeAlias = Iterator[pb.CritiqueCandidatesResponse]


class Pool:
    """What one process holds for a client."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        access: Access,
        retry: RetryPolicy,
        max_message_bytes: int,
        max_in_flight: int,
    ) -> None:
        self.servers = Servers(
            addresses,
            retry,
            lambda target: Connection(target.address, max_message_bytes, access, host=target.host),
        )
        self.slots = Slots(max_in_flight)
        self.limits: dict[str, Limits] = {}
        """By model, of those that refused a request for its size."""

    @contextmanager
    def server(self, key: bytes, budget: Budget) -> Iterator[Connection]:
        """That of a call about `key`, which is in flight inside the block."""
        if looking := self.servers.refresh():
            wait([looking], budget.remaining())
        for connection in self.servers.retired():
            connection.close()
        with self.slots.one(budget), self.servers.one(key) as connection:
            yield connection

    def close(self) -> None:
        for connection in self.servers.end():
            connection.close()


class Calls:
    """Made with what `Connections` holds for the process that asks."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        access: Access,
        retry: RetryPolicy,
        max_message_bytes: int,
        max_in_flight: int,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_in_flight = max_in_flight
        self.one_model = OneModel()
        self.pools = Connections(
            lambda: Pool(
                addresses,
                access=access,
                retry=retry,
                max_message_bytes=max_message_bytes,
                max_in_flight=max_in_flight,
            )
        )

    def call(
        self,
        request: AnyRequestT,
        method: "Callable[[RewardServiceStub], _Unary[AnyRequestT, AnyResponseT]]",
        budget: Budget,
        key: bytes = b"",
    ) -> AnyResponseT:
        """One call, repeated as `budget` allows."""
        invoke = Halt().invoke
        return self._repeated(
            lambda connection: invoke(
                method(connection.stub), request, budget, connection.metadata()
            ),
            key,
            budget,
        )

    def judge(
        self,
        draft: Draft[RequestT],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        """The answer to the whole draft, in one call, or in several if the server takes no more.
        Raises ServerFault if another model gave it than earlier ones."""
        result = self._judge(draft, question, method, budget)
        self.one_model.check(draft.options.model, result.provenance)
        return result

    def _judge(
        self,
        draft: Draft[RequestT],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        model: str = draft.options.model
        try:
            return self._judge_within(
                self.pools.get().limits.get(model), draft, question, method, budget
            )
        except RequestRefused as refusal:
            if question.num_items(draft) < 2 or not is_too_large(refusal):
                raise
            # Not asked for before: few requests come near the limits, and a server that restarts
            # may have others.
            parts = question.split(draft, self._limits(model, budget), self._max_message_bytes)
            if len(parts) < 2:
                raise
        return self._judge_parts(parts, question, method, budget)

    def open(
        self, request: pb.CritiqueCandidatesRequest, key: bytes, budget: Budget
    ) -> tuple[Messages, Callable[[], object]]:
        """A stream, once its first message is there, before which the call may be repeated; and
        what cancels it. Counts as in flight until its first message only: how long it stays open
        is up to the caller, who may well wait for another call meanwhile."""
        return self._repeated(lambda connection: _opened(connection, request, budget), key, budget)

    def _repeated(
        self,
        attempt: Callable[[Connection], T],
        key: bytes,
        budget: Budget,
        halt: Halt | None = None,
    ) -> T:
        def at_an_endpoint(_: float | None) -> T:
            with self.pools.get().server(key, budget) as connection:
                return attempt(connection)

        return run(
            at_an_endpoint,
            budget,
            sleep=(halt or Halt()).sleep,
            elsewhere=self.pools.get().servers.elsewhere,
        )

    def _exchange(
        self,
        draft: Draft[RequestT],
        method: "Callable[[RewardServiceStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
        halt: Halt | None = None,
    ) -> ResponseT:
        """Sends pictures by digest where the server should know them, and whole if it does not."""
        digests = draft.digests
        invoke = (halt or Halt()).invoke

        def attempt(connection: Connection) -> ResponseT:
            rpc, sent = method(connection.stub), connection.sent
            known = sent.known(digests)
            try:
                response = invoke(rpc, draft.request(known), budget, connection.metadata())
                retained = not (known and decode.lacks_pictures(response))
            except RewardError as error:
                if not known or error.reason != ErrorReason.UNKNOWN_IMAGE:
                    raise
                retained = False
            if not retained:
                sent.forget(digests)
                response = invoke(rpc, draft.request(), budget, connection.metadata())
            sent.remember(digests)
            return response

        return self._repeated(attempt, affinity_key(draft.prompt), budget, halt)

    def _judge_within(
        self,
        limits: Limits | None,
        draft: Draft[RequestT],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        parts = question.split(draft, limits, self._max_message_bytes) if limits else []
        if len(parts) > 1:
            return self._judge_parts(parts, question, method, budget)
        return question.decode(self._exchange(draft, method, budget), question.num_items(draft))

    def _judge_parts(
        self,
        parts: Sequence[Part[RequestT]],
        question: Question[RequestT, ResponseT, ResultT],
        method: "Callable[[RewardServiceStub], _Unary[RequestT, ResponseT]]",
        budget: Budget,
    ) -> ResultT:
        halt = Halt(cancellable=True)

        def ask(job: Job[RequestT]) -> ResultT | RewardError:
            try:
                response = self._exchange(job.draft, method, budget.part(), halt)
                return question.decode(response, job.num_items)
            except RewardError as error:
                return error

        here = contextvars.copy_context()  # the span that all of them are made under

        def in_context(job: Job[RequestT]) -> ResultT | RewardError:
            return here.copy().run(ask, job)

        assembly: Assembly[RequestT, ResultT] = Assembly(parts)
        with ThreadPoolExecutor(min(len(parts), self._max_in_flight)) as threads:
            try:
                while jobs := assembly.jobs():
                    for job, answer in zip(jobs, threads.map(in_context, jobs), strict=True):
                        assembly.put(job.index, answer)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                halt.now()  # or leaving the block would wait for calls that nobody wants any more
                raise
        if assembly.has_outgrown_limits:
            self.pools.get().limits.clear()
        return assembly.result()

    def _limits(self, model: str, budget: Budget) -> Limits:
        response = self.call(model_request(model), lambda stub: stub.GetModel, budget)
        limits = model_info(response).limits
        self.pools.get().limits[model] = limits
        return limits


def _opened(
    connection: Connection, request: pb.CritiqueCandidatesRequest, budget: Budget
) -> tuple[Messages, Callable[[], Any]]:
    call = connection.stub.CritiqueCandidates(
        request, timeout=budget.remaining(), metadata=connection.metadata()
    )
    messages = iter(call)
    try:
        first = list(itertools.islice(messages, 1))
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error
    return itertools.chain(first, messages), call.cancel
