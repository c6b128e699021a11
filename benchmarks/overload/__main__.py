"""`python -m benchmarks.overload [--seconds 30] [--json FILE]`: four times what a server can do.

The fake critic sleeps for each token, so that load and server can share a machine. First what it
can do: as many tokens a second as it computes while enough wait. Then four times that, at random
times, by callers that never come back; then the same with a small caller beside them; then by
`AsyncRewardClient`s, which do come back. Exits with 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles

from benchmarks.engine.bars import Bar, at_least, at_most
from benchmarks.overload.load import (
    Call,
    ask,
    at_a_time,
    at_rate,
    connections,
    content,
    numbers,
    tokens_per_second,
)
from benchmarks.overload.serving import Serving, serving

from adjudge_reranker import AsyncRewardClient

SECONDS_PER_TOKEN = 0.0005
MAX_BATCH_TOKENS = 512
MAX_QUEUE_TOKENS = 8000
FACTOR = 4
CLIENTS = 4
"""Connections of the callers that ask for too much."""
MIN_SECONDS = 2.5 * (MAX_QUEUE_TOKENS + MAX_BATCH_TOKENS) * SECONDS_PER_TOKEN
"""Of a part: what is measured begins when the queue is full, and is the greater part of it."""
BOUND_SLACK = 1.1
"""For what is beside the model: preparing, gRPC, the load's own event loop."""

BARS = (
    at_least("goodput_over_capacity", 0.85, "tokens answered a second, at four times the capacity"),
    at_most("accepted_p99_over_bound", BOUND_SLACK, "bound: tokens of a full queue and a batch"),
    at_most("refused_untold", 0, "refusals without UNAVAILABLE, QUEUE_FULL and RetryInfo"),
    at_most("refusal_p99_seconds", 0.05, "in the server, from its first look at the request"),
    at_least("small_client_answered", 0.95, "of its calls, one at a time beside the others"),
    at_most("clients_unanswered", 0, "calls of RewardClients that come back, in the end"),
    at_least("clients_goodput_over_capacity", 0.85, "while all of them wait for answers"),
    at_most("client_attempts_per_half_second", 1.0, "of a call, beside its first: it backs off"),
)


@dataclass
class Figures:
    """Rates are in tokens a second."""

    capacity: float = 0.0
    nominal: float = 1 / SECONDS_PER_TOKEN
    offered: float = 0.0
    goodput: float = 0.0
    bound_seconds: float = 0.0
    accepted: int = 0
    accepted_p50_seconds: float = 0.0
    accepted_p99_seconds: float = 0.0
    refused: int = 0
    refused_untold: int = 0
    refusal_p50_seconds: float = 0.0
    refusal_p99_seconds: float = 0.0
    refusal_p99_seconds_at_the_client: float = 0.0
    small_calls: int = 0
    small_answered: float = 0.0
    small_p99_seconds: float = 0.0
    client_calls: int = 0
    client_unanswered: int = 0
    client_attempts: int = 0
    client_goodput: float = 0.0
    client_seconds: float = 0.0
    """Of all its calls together, from the first attempt to the answer."""

    def bars(self) -> dict[str, float]:
        again = self.client_attempts - self.client_calls
        return {
            "goodput_over_capacity": self.goodput / self.capacity,
            "accepted_p99_over_bound": self.accepted_p99_seconds / self.bound_seconds,
            "refused_untold": self.refused_untold,
            "refusal_p99_seconds": self.refusal_p99_seconds,
            "small_client_answered": self.small_answered,
            "clients_unanswered": self.client_unanswered,
            "clients_goodput_over_capacity": self.client_goodput / self.capacity,
            "client_attempts_per_half_second": again / (2 * self.client_seconds),
        }


async def measure(server: Serving, seconds: float) -> Figures:
    found = Figures()
    async with connections(server.address, CLIENTS) as stubs:
        await _capacity(found, stubs, seconds)
        await _overload(found, stubs, seconds, server)
    async with connections(server.address, CLIENTS + 1) as (small, *stubs):
        await _small_client(found, small, stubs, seconds)
    await _clients(found, server, seconds)
    return found


async def _capacity(found: Figures, stubs: Sequence[object], seconds: float) -> None:
    began = time.monotonic()
    calls = await at_a_time(stubs, 4 * CLIENTS, seconds / 2)
    found.capacity = tokens_per_second(calls, began + seconds / 8, began + seconds / 2)
    found.bound_seconds = (MAX_QUEUE_TOKENS + MAX_BATCH_TOKENS) / found.capacity
    found.offered = FACTOR * found.capacity


def _rate(found: Figures, call: Call) -> float:
    """Calls a second that are four times the capacity."""
    return found.offered / call.tokens


async def _overload(
    found: Figures, stubs: Sequence[object], seconds: float, server: Serving
) -> None:
    rate = _rate(found, await ask(stubs[0]))
    before, began = len(server.refusals()), time.monotonic()
    calls = await at_rate(stubs, rate, seconds)
    # Once the queue has filled.
    found.goodput = tokens_per_second(calls, began + found.bound_seconds, began + seconds)
    accepted = [call.seconds for call in calls if call.error is None]
    refused = [call for call in calls if call.error is not None]
    found.accepted, found.refused = len(accepted), len(refused)
    found.accepted_p50_seconds, found.accepted_p99_seconds = _percentiles(accepted)
    found.refused_untold = sum(not call.is_told_when for call in refused)
    found.refusal_p99_seconds_at_the_client = _percentiles([c.seconds for c in refused])[1]
    in_server = server.refusals()[before:]
    found.refusal_p50_seconds, found.refusal_p99_seconds = _percentiles(in_server)


async def _small_client(
    found: Figures, small: object, stubs: Sequence[object], seconds: float
) -> None:
    """Who asks for little, one call after the other, and never waits to ask again."""
    greedy = asyncio.create_task(at_rate(stubs, _rate(found, await ask(stubs[0])), seconds))
    await asyncio.sleep(found.bound_seconds)
    began, calls = time.monotonic(), list[Call]()
    # One at least, however slow the machine: the bound is that of the capacity it has.
    while not calls or time.monotonic() - began < seconds - found.bound_seconds:
        calls.append(await ask(small, 2))
        await asyncio.sleep(0.1)
    await greedy
    answered = [call.seconds for call in calls if call.error is None]
    found.small_calls = len(calls)
    found.small_answered = len(answered) / len(calls)
    found.small_p99_seconds = _percentiles(answered)[1]


async def _clients(found: Figures, server: Serving, seconds: float) -> None:
    """Four times as many calls at a time as the queue has room for."""
    before, began = len(server.refusals()), time.monotonic()
    in_flight, each = FACTOR * MAX_QUEUE_TOKENS // 170, max(2, int(seconds / 10))
    tokens, ends, waited = list[int](), list[float](), list[float]()

    async def call(client: AsyncRewardClient) -> None:
        for _ in range(each):
            asked = time.monotonic()
            result = await client.score(*content(next(numbers)))
            tokens.append(result.provenance.computed_tokens)
            ends.append(time.monotonic())
            waited.append(ends[-1] - asked)

    async with AsyncRewardClient(server.address, timeout=600.0, max_in_flight=in_flight) as client:
        await asyncio.gather(*(call(client) for _ in range(in_flight)), return_exceptions=True)
    found.client_calls = in_flight * each
    found.client_unanswered = found.client_calls - len(tokens)
    found.client_attempts = found.client_calls + len(server.refusals()) - before
    # Until the last quarter of them, when no longer all of them are there.
    ends.sort()
    quarter = ends[3 * len(ends) // 4] - began
    found.client_goodput = sum(tokens) * 3 / 4 / quarter
    found.client_seconds = sum(waited)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (float("nan"), float("nan"))
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.overload", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help=f"of each part (default: 30; at least {MIN_SECONDS:g}, in which the queue fills)",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.seconds >= MIN_SECONDS:
        parser.error(f"--seconds {options.seconds:g}: must be {MIN_SECONDS:g} or more")
    flags = ["--max-batch-tokens", str(MAX_BATCH_TOKENS)]
    flags += ["--max-queue-tokens", str(MAX_QUEUE_TOKENS)]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), SECONDS_PER_TOKEN, *flags) as server,
    ):
        found = asyncio.run(measure(server, options.seconds))
    values = found.bars()
    for name, value in asdict(found).items():
        print(f"{name:36} {value:.5g}")
    for bar in BARS:
        print(_line(bar, values[bar.name]))
    if options.json:
        told = {"bars": values, "figures": asdict(found)}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return int(not all(bar.is_met(values[bar.name]) for bar in BARS))


def _line(bar: Bar, value: float) -> str:
    sign = "<=" if bar.is_upper else ">="
    verdict = "met" if bar.is_met(value) else "MISSED"
    return f"{verdict:6} {bar.name} {value:.4g} {sign} {bar.limit:g} ({bar.meaning})"


if __name__ == "__main__":
    sys.exit(main())
