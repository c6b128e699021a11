"""Bad input: what is wrong in a known way, and gets a known reason; and spoilt bytes."""

import asyncio
import itertools
from typing import Any, Final

import grpc
import grpc.aio

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_reranker import RewardError
from adjudge_reranker.decode import compare_result, score_result
from adjudge_reranker.errors import error_from_rpc
from tests.soak.askers import TIMEOUT, Traffic
from tests.soak.messages import check_failure, compare_request, reason_of, score_request
from tests.soak.questions import Question

_SERVICE: Final = "/adjudge.v1.RewardService"
SCORE, COMPARE = f"{_SERVICE}/ScoreCandidates", f"{_SERVICE}/CompareCandidates"
MODEL: Final = f"{_SERVICE}/GetModel"


async def stranger(traffic: Traffic) -> None:
    """Sound requests with something wrong in their bytes. (`tests.server.fuzz` does it thoroughly.)
    What can still be read is answered."""
    async with grpc.aio.insecure_channel(traffic.address) as channel:
        while not traffic.stop.is_set():
            method, data = _spoilt(traffic)
            call: Any = channel.unary_unary(method)
            try:
                answer = await call(data, timeout=TIMEOUT)
            except grpc.aio.AioRpcError as error:
                check_failure(traffic.tally, "stranger", error, needs_reason=True)
            else:
                _check_readable(traffic, method, answer)
            await traffic.pause(0.1)


def _spoilt(traffic: Traffic) -> tuple[str, bytes]:
    choose, asked = traffic.choose, traffic.known_question()
    method = choose.choice((SCORE, COMPARE, MODEL))
    sound = {
        SCORE: score_request(asked),
        COMPARE: compare_request(asked, [(0, 1), (2, 0)]),
        MODEL: pb.GetModelRequest(model="embedded"),
    }
    data = bytearray(sound[method].SerializeToString())
    for _ in range(choose.choice((1, 1, 2, 8))):
        start = choose.randrange(len(data) + 1)
        end = min(len(data), start + choose.randrange(40))
        noise = choose.choice(
            (b"", b"\xff" * 10, choose.randbytes(end - start), data[start:end] * 9)
        )
        data[start:end] = noise
    if choose.random() < 0.2:
        del data[choose.randrange(len(data) + 1) :]
    return method, bytes(data)


def _check_readable(traffic: Traffic, method: str, answer: bytes) -> None:
    try:
        if method == SCORE:
            scores = pb.ScoreCandidatesResponse.FromString(answer)
            score_result(scores, len(scores.outcomes))
        elif method == COMPARE:
            comparisons = pb.CompareCandidatesResponse.FromString(answer)
            compare_result(comparisons, len(comparisons.outcomes))
    except RewardError as error:  # such as for a number that is not finite
        traffic.tally.failed("stranger", error)
    else:
        traffic.tally.count("stranger", "OK")


async def mistaken(traffic: Traffic) -> None:
    """Every mistake in turn; its neighbours in the request are judged."""
    async with grpc.aio.insecure_channel(traffic.address) as channel:
        for number in itertools.count():
            if traffic.stop.is_set():
                return
            asked = traffic.known_question()
            mistakes = _mistakes(asked)
            method, request, reason = mistakes[number % len(mistakes)]
            await _refused(traffic, channel, method, request, reason)
            await _bad_neighbours(traffic, channel)
            await traffic.pause(1.0)


def _mistakes(asked: Question) -> list[tuple[str, Any, str]]:
    """Method, request, and the reason that it is refused with."""
    half = asked.picture[: len(asked.picture) // 2]
    return [
        (SCORE, _with_picture(asked, encoded=half), "UNDECODABLE_IMAGE"),
        (SCORE, _with_picture(asked, encoded=b"no picture"), "UNDECODABLE_IMAGE"),
        (SCORE, _with_picture(asked, wire_digest=bytes(32)), "UNKNOWN_IMAGE"),
        (SCORE, score_request(asked, template="no/such"), "UNKNOWN_TEMPLATE"),
        (SCORE, score_request(asked, model="another"), "UNKNOWN_MODEL"),
        (SCORE, score_request(asked, expected_epoch=99), "WRONG_EPOCH"),
        (SCORE, score_request(asked, rubric="Be strict."), "UNSUPPORTED_CONTENT"),
        (SCORE, score_request(asked, ["x"] * 300), "LIMIT_EXCEEDED"),
        (COMPARE, compare_request(asked, []), "INVALID_REQUEST"),
        (SCORE, b"\xff\xff\xff\xff no message", "INVALID_REQUEST"),
    ]


async def _refused(
    traffic: Traffic, channel: grpc.aio.Channel, method: str, request: Any, reason: str
) -> None:
    sent = request if isinstance(request, bytes) else request.SerializeToString()
    call: Any = channel.unary_unary(method)
    try:
        await call(sent, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        found = error_from_rpc(error).reason
        traffic.tally.count("mistake", str(found))
        if found not in (reason, "QUEUE_FULL"):
            traffic.tally.untyped.append(f"mistake: {found} is not {reason}")
    else:
        traffic.tally.wrong.append(f"mistake: an answer instead of {reason}")


async def _bad_neighbours(traffic: Traffic, channel: grpc.aio.Channel) -> None:
    """A pair out of range, and one with itself, beside a sound one."""
    asked = traffic.known_question()
    request = compare_request(asked, [(0, 99), (0, 1), (1, 1)])
    stub: Any = RewardServiceStub(channel)
    try:
        response: pb.CompareCandidatesResponse = await stub.CompareCandidates(
            request, timeout=TIMEOUT
        )
    except grpc.aio.AioRpcError as error:
        traffic.tally.failed("mistake", error_from_rpc(error))
        return
    reasons = [reason_of(o.error) if o.HasField("error") else "" for o in response.outcomes]
    traffic.tally.count("mistake", "OK")
    if reasons[::2] != ["INVALID_REQUEST"] * 2:
        traffic.tally.untyped.append(f"mistake: pairs that make no sense got {reasons}")
    outcome = response.outcomes[1]
    known = traffic.tally.truths[asked.number].margin
    if not outcome.HasField("comparison"):
        if reason_of(outcome.error) != known:
            traffic.tally.wrong.append(f"mistake: {reason_of(outcome.error)} is not {known}")
    elif isinstance(known, str) or abs(outcome.comparison.margin - known) > 1e-4:
        traffic.tally.wrong.append(f"mistake: {outcome.comparison.margin} is not {known}")


def _with_picture(asked: Question, **picture: Any) -> Any:
    request = score_request(asked)
    request.prompt[0].parts[0].CopyFrom(pb.Part(image=pb.Image(**picture)))
    return request


async def wanderer(traffic: Traffic) -> None:
    """Connects and speaks no gRPC, or stops in the middle of a word."""
    host, _, port = traffic.address.rpartition(":")
    said = [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(range(256))]
    while not traffic.stop.is_set():
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(traffic.choose.choice(said))
        await traffic.pause(traffic.choose.uniform(0.0, 3.0))
        writer.transport.abort()
        traffic.tally.count("wanderer", "gone")
