"""What several servers behind one client are worth, and what kills cost.

    python -m benchmarks.replicas [--minutes 3] [--servers 3] [--killed embedded] [--json FILE]

All servers are processes on this machine and share its cores: rates and times here say nothing
about replicas that have a machine each. What does not depend on that: whether rewards are right,
whether calls fail, and how often caches are hit.

The same traffic (each of `--pictures` pictures in `--rounds` questions, in another order each
round) goes to one server with the embedded critic, to several with the client's affinity, and to
several at random. Then one of several is killed with SIGKILL and started again every `--every`
seconds, for `--minutes`, but never the last that serves: the embedded critic takes seconds to
start, most of them for importing PyTorch, and `--killed fake` is one that does not. Every reward is
compared with what an undisturbed server of that critic said. Exits with 1 where a bar is missed.
"""

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.replicas.processes import Caches, Killer, Replica, replicas
from benchmarks.replicas.traffic import Found, Question, Truth, ask, pictures, questions, truth

from adjudge_reranker import RewardClient

AT_LEAST_HIT_RATE = 0.9
"""Of that of a single server."""
FLAGS = {"embedded": (), "fake": ("--critic", "fake")}
"""By critic."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of whom."""

    files: list[bytes]
    true: Truth
    num_rounds: int
    num_threads: int

    @property
    def asked(self) -> Iterator[Question]:
        """The same questions each time."""
        return itertools.islice(self.endless(1), len(self.files) * self.num_rounds)

    def endless(self, seed: int) -> Iterator[Question]:
        return questions(len(self.files), seed)


@dataclass(frozen=True, slots=True)
class Phase:
    found: Found
    caches: Caches | None
    seconds: float

    def as_json(self) -> dict[str, object]:
        found, caches = self.found, self.caches
        return {
            "calls": len(found.seconds),
            "rewards": found.num_rewards,
            "wrong": found.num_wrong,
            "largest_difference": found.largest_difference,
            "failures": dict(found.failures),
            "seconds": round(self.seconds, 2),
            "median_seconds": round(found.quantile(0.5), 4),
            "p99_seconds": round(found.quantile(0.99), 4),
            "longest_seconds": round(found.quantile(1), 4),
            "prefix_hit_rate": None if caches is None else round(caches.prefix_rate, 4),
            "pictures_computed": None if caches is None else caches.pictures_computed,
        }


def planned(options: argparse.Namespace, critic: str) -> Plan:
    """With what a server of that critic says to all that may be asked."""
    files = pictures(options.pictures)
    with (
        replicas(1, FLAGS[critic]) as (server,),
        RewardClient(server.address, timeout=120) as client,
    ):
        return Plan(files, truth(client, files), options.rounds, options.threads)


def undisturbed(plan: Plan, count: int, *, has_affinity: bool = True) -> Phase:
    """The traffic at `count` fresh servers."""
    with replicas(count) as servers, ExitStack() as stack:
        addresses = [server.address for server in servers]
        before = _caches(servers)
        if has_affinity:
            clients = [stack.enter_context(RewardClient(addresses))]
        else:
            clients = [stack.enter_context(RewardClient(address)) for address in addresses]
        chance = random.Random(2)
        began = time.monotonic()
        found = ask(
            lambda _: chance.choice(clients), plan.asked, plan.files, plan.true, plan.num_threads
        )
        return _told(Phase(found, _caches(servers) - before, time.monotonic() - began))


def killed(plan: Plan, options: argparse.Namespace) -> tuple[Phase, dict[str, float]]:
    """Traffic at servers that are killed by turns, and what the killer did."""
    seconds = 60 * options.minutes
    with replicas(options.servers, FLAGS[options.killed]) as servers:
        killer = Killer(servers, options.every)
        with RewardClient([server.address for server in servers]) as client, killer.at_work():
            began = time.monotonic()
            asked = itertools.takewhile(
                lambda _: time.monotonic() - began < seconds, plan.endless(3)
            )
            found = ask(lambda _: client, asked, plan.files, plan.true, plan.num_threads)
            took = time.monotonic() - began
        away = [each for server in servers for each in server.away_seconds]
        told = {
            "kills": killer.num_kills,
            "postponed": killer.num_postponed,
            "mean_seconds_away": round(mean(away), 2) if away else float("nan"),
        }
        return _told(Phase(found, None, took)), told


def _caches(servers: list[Replica]) -> Caches:
    return sum((server.caches() for server in servers), Caches())


def run(options: argparse.Namespace) -> dict[str, object]:
    _say("the truth, then the same traffic to one server, several, several at random")
    plan = planned(options, "embedded")
    phases = {
        "one server": (one := undisturbed(plan, 1)),
        "several": (several := undisturbed(plan, options.servers)),
        "several, at random": undisturbed(plan, options.servers, has_affinity=False),
    }
    told: dict[str, float] = {}
    if options.minutes:
        _say(f"{options.minutes:g} minutes of kills")
        if options.killed != "embedded":
            plan = planned(options, options.killed)
        phases["several, killed"], told = killed(plan, options)
    assert several.caches is not None and one.caches is not None
    return {
        "environment": {
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "servers": options.servers,
            "pictures": options.pictures,
            "rounds": options.rounds,
            "threads": options.threads,
            "kill_every_seconds": options.every,
            "killed_critic": options.killed,
        },
        "bars": {
            "wrong_rewards": sum(phase.found.num_wrong for phase in phases.values()),
            "failed_calls": sum(phase.found.failures.total() for phase in phases.values()),
            "prefix_hit_rate_over_one": several.caches.prefix_rate / one.caches.prefix_rate,
        },
        "phases": {name: phase.as_json() for name, phase in phases.items()},
        "killer": told,
    }


def _told(phase: Phase) -> Phase:
    _say(json.dumps(phase.as_json()))
    return phase


def _say(doing: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {doing}", file=sys.stderr, flush=True)


def missed(bars: dict[str, float]) -> list[str]:
    """Names of the bars that are; not a number is missed."""
    names = [name for name in ("wrong_rewards", "failed_calls") if bars[name] != 0]
    rate = "prefix_hit_rate_over_one"
    return names + ([] if bars[rate] >= AT_LEAST_HIT_RATE else [rate])


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.replicas", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="of kills; 0: none")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between kills")
    parser.add_argument("--killed", choices=FLAGS, default="embedded", help="critic of those")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10, help="questions about each picture")
    parser.add_argument("--threads", type=int, default=4, help="calls at a time")
    parser.add_argument("--json", type=Path, help="a file for the same as JSON")
    options = parser.parse_args()
    results = run(options)
    text = json.dumps(results, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    bars = results["bars"]
    assert isinstance(bars, dict)
    names = missed(bars)
    print(f"missed: {', '.join(names)}" if names else "all bars met", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
