"""Several servers behind one client, as `python -m benchmarks.replicas` measures them, in small:
caches are hit as if there were one server, and kills cost no reward. No test judges by a time."""

import itertools
import json
import math
import sys
import time
import urllib.request

import pytest
from benchmarks.replicas import __main__ as program
from benchmarks.replicas.processes import START_SECONDS, Caches, Killer, replicas
from benchmarks.replicas.traffic import ask, pictures, questions, truth

from adjudge_reranker import RewardClient
from adjudge_server.serve import Server
from tests.conftest import Launch

NUM_PICTURES, NUM_ROUNDS = 12, 4
NUM_KILLS = 4


def caches(server: Server) -> Caches:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        return Caches.of(answer.read().decode())


def test_a_picture_is_computed_by_one_of_several_servers_only(launch: Launch) -> None:
    files = pictures(NUM_PICTURES)
    asked = list(itertools.islice(questions(NUM_PICTURES, 1), NUM_PICTURES * NUM_ROUNDS))
    servers = [launch(metrics_listen="127.0.0.1:0") for _ in range(4)]
    one, several = servers[:1], servers[1:]
    at_start = [caches(server).pictures_computed for server in several]  # their self-checks
    true = {}
    found = {}
    for group in (one, several):
        before = sum((caches(server) for server in group), Caches())
        with RewardClient([f"127.0.0.1:{server.port}" for server in group]) as client:
            if not true:
                true = truth(client, files)
            # One call at a time: none has to go elsewhere because its server is busy.
            answers = ask(lambda _, client=client: client, asked, files, true, 1)
        assert not answers.num_wrong and not answers.failures
        found[len(group)] = sum((caches(server) for server in group), Caches()) - before
    # The one server was asked for the truth before, and computed each picture then.
    assert found[1].pictures_computed == found[3].pictures_computed == NUM_PICTURES
    assert found[3].prefix_tokens_reused > found[3].prefix_tokens_computed
    at_end = [caches(server).pictures_computed for server in several]
    used = sum(end > start for start, end in zip(at_start, at_end, strict=True))
    assert used >= 2, "all pictures went to one server"


def test_kills_cost_no_reward() -> None:
    plan_of_few = pictures(6)
    with replicas(3, ["--critic", "fake"]) as servers:
        with RewardClient(servers[0].address) as client:
            true = truth(client, plan_of_few)
        killer = Killer(servers, 0.5)
        # A killer waits for the servers; only where none comes back would there never be enough.
        hangs_at = time.monotonic() + NUM_KILLS * START_SECONDS
        asked = itertools.takewhile(
            lambda _: killer.num_kills < NUM_KILLS and time.monotonic() < hangs_at, questions(6, 2)
        )
        with RewardClient([server.address for server in servers]) as client, killer.at_work():
            found = ask(lambda _: client, asked, plan_of_few, true, 4)
    assert killer.num_kills >= NUM_KILLS, "servers that were killed do not come back"
    assert found.num_rewards > 0 and not found.num_wrong and not found.failures


def test_a_wrong_reward_is_counted(address: str) -> None:
    files = pictures(1)
    asked = list(itertools.islice(questions(1, 1), 3))
    with RewardClient(address) as client:
        true = {
            number: tuple(r + 1 for r in rewards)
            for number, rewards in truth(client, files).items()
        }
        found = ask(lambda _: client, asked, files, true, 1)
        assert found.num_wrong == found.num_rewards == 12
        failed = ask(lambda _: RewardClient("127.0.0.1:1", timeout=0.1), asked, files, true, 1)
    assert failed.failures.total() == 3 and not failed.num_rewards
    assert math.isnan(failed.quantile(0.99)) and found.quantile(1) == max(found.seconds)


@pytest.mark.parametrize(
    ("bars", "names"),
    [
        ({}, []),
        ({"wrong_rewards": 1}, ["wrong_rewards"]),
        ({"failed_calls": 2}, ["failed_calls"]),
        ({"prefix_hit_rate_over_one": 0.89}, ["prefix_hit_rate_over_one"]),
        ({"prefix_hit_rate_over_one": math.nan}, ["prefix_hit_rate_over_one"]),
    ],
)
def test_a_bar_that_is_missed_is_named(bars: dict, names: list[str]) -> None:
    met = {"wrong_rewards": 0, "failed_calls": 0, "prefix_hit_rate_over_one": 0.9}
    assert program.missed(met | bars) == names


@pytest.mark.slow
def test_the_program_writes_every_bar(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replicas.json"
    flags = ["--minutes", "0.1", "--every", "2", "--pictures", "6", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", ["replicas", *flags, "--killed", "fake", "--json", str(path)])
    program.main()
    written = json.loads(path.read_text())
    assert written["bars"]["wrong_rewards"] == 0 and written["bars"]["failed_calls"] == 0
    assert set(written["phases"]) == {
        "one server",
        "several",
        "several, at random",
        "several, killed",
    }
