"""Trainers fork after they have called: data loaders, worker pools."""

import os
import subprocess
import sys

PROGRAM = """
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


def test_children_forked_after_a_call_can_call_and_so_can_their_parent(address: str) -> None:
    environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "1"}
    command = [sys.executable, "-c", PROGRAM, address]
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
