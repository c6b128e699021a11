"""The short examples run as they are, on the embedded critic."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adjudge_server.serve import Server

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(*command: str, server: Server | None = None) -> str:
    return run(*command, server=server).stdout


def run(*command: str, server: Server | None = None) -> subprocess.CompletedProcess[str]:
    address = {} if server is None else {"ADJUDGE_SERVER": f"127.0.0.1:{server.port}"}
    name, *flags = command
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *flags],
        env=os.environ | address,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_demonstration_ranks_the_seven_first_and_logs_nothing() -> None:
    done = run("demo.py")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    (best,) = [line for line in lines if "This is a handwritten number seven." in line][:1]
    (wrong,) = [line for line in lines if "sketch of a line" in line][:1]
    assert lines.index(best) < lines.index(wrong)


def test_the_best_of_several_is_the_seven(embedded_server: Server) -> None:
    first, *_ = output_of("best_of_n.py", server=embedded_server).splitlines()
    assert first.endswith("This is a handwritten number seven.")


@pytest.mark.parametrize("policy", ["blind", "weak"])
def test_every_strategy_has_a_row(policy: str) -> None:
    table = output_of("strategies.py", "--quick", "--policy", policy)
    for strategy in ("best_of_n", "knockout", "score_then_compare", "round_robin"):
        assert f"| `{strategy}`" in table


def test_mined_pairs_are_printed() -> None:
    assert "chosen" in output_of("mine_preferences.py")
