"""A server whose fake critic takes its time, in a process of its own; and what its log says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adjudge_server.loading import FAKE_SECONDS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Serving:
    address: str
    log: Path

    def refusals(self) -> list[float]:
        """Seconds from the server's first look at a request to its refusal, for each."""
        told = (json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{")
        return [line["seconds"] for line in told if line.get("outcome") == "QUEUE_FULL"]


@contextmanager
def serving(folder: Path, seconds_per_token: float, *flags: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0", *flags]
    command += ["--critic", "fake", "--log-format", "json", "--log-level", "debug"]
    environment = {**os.environ, FAKE_SECONDS_PER_TOKEN: str(seconds_per_token)}
    log = folder / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("serving "):
                raise RuntimeError(f"the server did not start: {log.read_text()}")
            yield Serving(line.split()[-1], log)
        finally:
            process.terminate()
