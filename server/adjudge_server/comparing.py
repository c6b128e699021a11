"""CompareCandidates, asked of a critic."""

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import queries
from adjudge_server.answering import (
    caller_of,
    check_readout,
    count,
    judge_for,
    placed,
    provenance,
    read,
    record,
)
from adjudge_server.asking import Asker
from adjudge_server.content import Pair
from adjudge_server.errors import AdjudgeError, InvalidRequest
from adjudge_server.handling import Context
from adjudge_server.models import Models
from adjudge_server.observing.exchange import current_exchange
from adjudge_server.outcomes import compare_outcome, compared
from adjudge_server.templates import Kind


async def compare(
    asker: Asker, models: Models, request: pb.CompareCandidatesRequest, context: Context
) -> pb.CompareCandidatesResponse:
    judge = judge_for(models, request)
    judge.batcher.check_room(caller_of(context, request))
    asked = await asker.ask(judge, request, Kind.PAIRWISE, context)
    check_readout(request.readout, asked.template)
    texts = asker.texts(judge, request, asked)
    pairs = asker.check_pairs(request, texts)
    if not pairs:
        raise InvalidRequest("there must be at least one pair", field="pairs")
    both = _both_orders(request.order_policy)
    # Each ordered pair once, so that (a, b) and (b, a) in one request share their readings.
    orders = dict.fromkeys(
        order for pair in pairs if isinstance(pair, Pair) for order in _orders(pair, both)
    )
    count(asked, texts, ((order.first, order.second) for order in orders))
    with current_exchange().stage("prepare"):
        items = await judge.prepare(
            await judge.aside(lambda: [queries.pair_query(asked, texts, o) for o in orders])
        )
    judge, readings = await read(models, judge, items, request, context)
    found = dict(zip(orders, readings.items, strict=True))
    readings_of_pairs = [
        [pair]
        if isinstance(pair, AdjudgeError)
        else placed([found[order] for order in _orders(pair, both)], "pairs", i)
        for i, pair in enumerate(pairs)
    ]
    outcomes = [
        compared(asked.template, of_pair, judge.noise_floor) for of_pair in readings_of_pairs
    ]
    current_exchange().orders = 2 if both else 1
    of_pairs = [queries.texts_of(texts, pair) for pair in pairs]
    await record(judge, judge.identity, outcomes, of_pairs)
    return pb.CompareCandidatesResponse(
        outcomes=[compare_outcome(outcome) for outcome in outcomes],
        provenance=provenance(judge.identity, asked.template),
    )


def _orders(pair: Pair, both: bool) -> list[Pair]:
    return [pair, Pair(pair.second, pair.first)] if both else [pair]


def _both_orders(policy: "pb.OrderPolicy.ValueType") -> bool:
    if policy not in pb.OrderPolicy.values():
        raise InvalidRequest("the order policy is not known", field="order_policy")
    return policy != pb.ORDER_POLICY_AS_GIVEN
