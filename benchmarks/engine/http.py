"""What benchmarks of servers over HTTP need."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

START_SECONDS = 600
CHARACTERS_OF_LOG = 3000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def post(url: str, body: dict[str, object]) -> Any:
    """The answer's JSON. Raises RuntimeError with what the server said."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:CHARACTERS_OF_LOG]
        raise RuntimeError(f"{url}: {error.code} {said}") from error


def wait_until_up(url: str, server: "subprocess.Popen[Any]", log: Path) -> None:
    """Raises RuntimeError, with the end of its log, for a server that ended or took too long."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"{url} did not start:\n{log.read_text()[-CHARACTERS_OF_LOG:]}")
