"""A server that does as it is told, for what a real one does only on a bad day."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1 import reward_pb2_grpc

Step = Callable[[Any, grpc.ServicerContext], Any]


class ScriptedService(reward_pb2_grpc.RewardServiceServicer):
    """Takes one step a call, in order, and answers faultlessly when the steps are used up."""

    def __init__(self) -> None:
        self.address = ""
        self.steps: deque[Step] = deque()
        self.requests: list[Any] = []
        self.deadlines: list[float | None] = []
        """Seconds left at each call's arrival."""

    def plan(self, *steps: Step) -> None:
        self.steps.extend(steps)

    def ScoreCandidates(self, request, context):
        return self._step(request, context, good_scores)

    def CompareCandidates(self, request, context):
        return self._step(request, context, good_comparisons)

    def CritiqueCandidates(self, request, context):
        yield from self._step(request, context, good_critiques)

    def GetModel(self, request, context):
        return self._step(request, context, lambda *_: pb.GetModelResponse())

    def _step(self, request, context, otherwise):
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        step = self.steps.popleft() if self.steps else otherwise
        return step(request, context)


@contextmanager
def serving(listen: str = "127.0.0.1:0") -> Iterator[ScriptedService]:
    service = ScriptedService()
    server = grpc.server(
        ThreadPoolExecutor(8),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    reward_pb2_grpc.add_RewardServiceServicer_to_server(service, server)
    host = listen.rpartition(":")[0]
    service.address = f"{host}:{server.add_insecure_port(listen)}"
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()


def reward(value: float | None) -> pb.ScoreOutcome:
    return pb.ScoreOutcome(reward=pb.Reward(reward=value))


def comparison(margin: float) -> pb.CompareOutcome:
    return pb.CompareOutcome(comparison=pb.Comparison(margin=margin, preference=0.5))


def good_scores(request, context):
    """The reward of each candidate is the length of its text."""
    lengths = [sum(len(part.text) for part in c.parts) for c in request.candidates]
    return pb.ScoreCandidatesResponse(outcomes=[reward(float(length)) for length in lengths])


def good_comparisons(request, context):
    return pb.CompareCandidatesResponse(outcomes=[comparison(1.0) for _ in request.pairs])


def good_critiques(request, context):
    for index in range(len(request.pairs) or len(request.candidates)):
        yield pb.CritiqueCandidatesResponse(index=index, text="well")
        yield pb.CritiqueCandidatesResponse(index=index, reward=pb.Reward(reward=1.0))
        yield pb.CritiqueCandidatesResponse(index=index, end=pb.CritiqueEnd())
    yield pb.CritiqueCandidatesResponse(provenance=pb.Provenance())


def status(
    code: grpc.StatusCode,
    reason: str = "",
    message: str = "as told",
    retry_after: float | None = None,
    domain: str = "adjudge",
    **metadata: str,
) -> status_pb2.Status:
    """A status as the contract wants it: one ErrorInfo, and perhaps a RetryInfo."""
    details: list[Any] = []
    if reason:
        details.append(
            error_details_pb2.ErrorInfo(
                reason=f"ERROR_REASON_{reason}", domain=domain, metadata=metadata
            )
        )
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for detail, target in zip(details, packed, strict=True):
        target.Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def fail(code: grpc.StatusCode, reason: str = "", **details: Any) -> Step:
    """A step that ends the call with a status."""

    def step(request, context):
        detailed = status(code, reason, **details)
        trailer = ("grpc-status-details-bin", detailed.SerializeToString())
        context.set_trailing_metadata((trailer,))
        context.abort(code, detailed.message)

    return step


def busy(retry_after: float | None = None) -> Step:
    return fail(grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL", retry_after=retry_after)


def unknown_image() -> Step:
    return fail(grpc.StatusCode.NOT_FOUND, "UNKNOWN_IMAGE", field="prompt[0].parts[0].image")


def answer(response: Any) -> Step:
    return lambda request, context: response
