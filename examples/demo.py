"""Starts a server on the embedded critic, has it judge the handwritten seven, and stops it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SEVEN = Path(__file__).parent / "images" / "seven.png"
QUESTION = "What this image presents?"
ANSWERS = (
    "The image is a black and white sketch of a line that appears to be in the shape of a cross."
    " The line is a simple and straightforward representation of the cross shape, with two straight"
    " lines intersecting at a point.",
    "This is a handwritten number seven.",
    "This is a handwritten number four.",
    "It could be a seven or a one.",
    "This is an image.",
    "",
)


def main() -> int:
    print("Starting adjudge-server with the embedded critic …", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0"]
    command += ["--log-level", "warning"]  # not the minute that it sums up when it ends
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ready = server.stdout.readline().strip()
        if not ready:
            return server.wait() or 1
        print(f"{ready}, ready after {time.monotonic() - started:.1f} s\n", flush=True)
        return rank(ready.rpartition(" ")[2])
    finally:
        server.terminate()
        server.wait()
        print("\nThe server has stopped.")


def rank(address: str) -> int:
    width = max(100, shutil.get_terminal_size().columns)
    command = ["rank", "--server", address, "--format", "table", "--prompt", QUESTION]
    return subprocess.run(
        [sys.executable, "-m", "adjudge_reranker.cli", *command, "--image", SEVEN, "--", *ANSWERS],
        env=os.environ | {"COLUMNS": str(width)},
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
