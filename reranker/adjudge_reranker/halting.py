"""Ends the parts of one call, which run in threads, when their caller is interrupted."""

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from adjudge_reranker.access import Metadata
from adjudge_reranker.errors import ServerUnavailable, error_from_rpc
from adjudge_reranker.retry import Budget

if TYPE_CHECKING:
    from grpc import UnaryUnaryMultiCallable as _Unary

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Halt:
    """Makes calls and pauses; if it is `cancellable`, `now` ends those under way, in any thread."""

    def __init__(self, *, cancellable: bool = False) -> None:
        self._cancellable = cancellable
        self._halted = threading.Event()
        self._flying: set[Any] = set()

    def invoke(
        self,
        rpc: "_Unary[RequestT, ResponseT]",
        request: RequestT,
        budget: Budget,
        metadata: Metadata,
    ) -> ResponseT:
        """The answer. Raises a RewardError for a failed call."""
        try:
            if not self._cancellable:
                # Quicker than a future, and an interrupt ends it as it is.
                return rpc(request, timeout=budget.remaining(), metadata=metadata)
            return self._future(rpc, request, budget, metadata)
        except grpc.FutureCancelledError as error:  # which is no RpcError
            raise _cancelled() from error
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error

    def sleep(self, seconds: float) -> None:
        """Raises ServerUnavailable when halted."""
        if not self._cancellable:
            time.sleep(seconds)
        elif self._halted.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise _cancelled()

    def now(self) -> None:
        """Ends calls and pauses, and lets no other begin."""
        self._halted.set()
        for call in list(self._flying):
            call.cancel()

    def _future(
        self,
        rpc: "_Unary[RequestT, ResponseT]",
        request: RequestT,
        budget: Budget,
        metadata: Metadata,
    ) -> ResponseT:
        call = rpc.future(request, timeout=budget.remaining(), metadata=metadata)
        self._flying.add(call)
        try:
            if self._halted.is_set():  # after it was added, so that one of the two cancels it
                call.cancel()
            return call.result()
        finally:
            self._flying.discard(call)


def _cancelled() -> ServerUnavailable:
    return ServerUnavailable("the call was ended by its caller", code=grpc.StatusCode.CANCELLED)
