"""The examples of generating run as they are, on the embedded critic."""

import subprocess
import sys
from pathlib import Path

import pytest

from adjudge_server.serve import Server

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("name", ["generate_openai.py", "generate_transformers.py"])
def test_the_example_finds_the_digit_and_stops_early(name: str, embedded_server: Server) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={"ADJUDGE_SERVER": f"127.0.0.1:{embedded_server.port}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("best: This is a handwritten number seven.\n")
    assert "good enough: " in done.stdout
