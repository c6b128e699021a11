"""Trainers fork and spawn after they have called: data loaders, worker pools."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from adjudge_reranker import RewardClient

FORKED = """
import os, sys
from adjudge_reranker import RewardClient

client = RewardClient(sys.argv[1], timeout=20.0)
expected = client.score("Why?", ["so"]).rewards
failed = 0
for _ in range(4):
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if client.score("Why?", ["so"]).rewards == expected else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    failed += status != 0
    assert client.score("Why?", ["so"]).rewards == expected  # the parent still can
sys.exit(failed)
"""

POOL = """
import multiprocessing, sys
from adjudge_reranker import RewardClient

client = RewardClient(sys.argv[1], timeout=20.0, max_in_flight=2)
questions = [f"Question {number}?" for number in range(40)]
expected = [client.score(question, ["so"]).rewards for question in questions]

def ask(question):
    return client.score(question, ["so"]).rewards  # the parent's own client, used there before

with multiprocessing.get_context("fork").Pool(4) as pool:
    assert pool.map(ask, questions, chunksize=5) == expected
assert client.score(questions[0], ["so"]).rewards == expected[0]
"""

LOADER = """
import sys
from torch.utils.data import DataLoader, Dataset
from adjudge_reranker import RewardClient

client = RewardClient(sys.argv[1], timeout=20.0)

class Scored(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, number):
        return client.score(f"Question {number}?", ["so"]).rewards[0]

expected = [Scored()[number] for number in range(24)]
for _ in range(2):  # an epoch has workers of its own
    loader = DataLoader(Scored(), num_workers=2, multiprocessing_context="fork", batch_size=None)
    assert [float(reward) for reward in loader] == expected
"""


def run(program: str, address: str) -> None:
    environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "1"}
    command = [sys.executable, "-c", program, address]
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", [FORKED, POOL], ids=["children", "a worker pool"])
def test_processes_forked_after_a_call_can_call_and_so_can_their_parent(
    program: str, address: str
) -> None:
    run(program, address)


def test_workers_of_a_data_loader_can_call_after_their_parent_has(address: str) -> None:
    pytest.importorskip("torch")
    run(LOADER, address)


def score(client: RewardClient, question: str) -> tuple[float | None, ...]:
    return client.score(question, ["so"]).rewards


def test_a_client_that_was_used_can_be_sent_to_spawned_processes(client: RewardClient) -> None:
    questions = [f"Question {number}?" for number in range(8)]
    expected = [score(client, question) for question in questions]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(score, [client] * 8, questions)) == expected


def test_everything_a_client_is_given_survives_pickling(address: str) -> None:
    with RewardClient([address, "127.0.0.1:1"], timeout=None, max_in_flight=3) as client:
        client.model(timeout=20.0)
        with pickle.loads(pickle.dumps(client)) as copy:
            kept = {name: value for name, value in vars(client).items() if name != "_calls"}
            assert {name: vars(copy)[name] for name in kept} == kept
            assert copy.score("Why?", ["so"], timeout=20.0).failures == ()


def test_32_threads_share_a_client(client: RewardClient) -> None:
    questions = [f"Question {number}?" for number in range(320)]
    expected = [score(client, question) for question in questions]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(score, [client] * 320, questions)) == expected


def test_the_client_loads_neither_torch_nor_transformers_nor_scipy(tmp_path: Path) -> None:
    program = (
        "import sys, adjudge_reranker as a\n"
        "a.RewardClient(['127.0.0.1:1', '127.0.0.1:2']), a.AsyncRewardClient()\n"
        "sys.exit(len({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path).returncode == 0
