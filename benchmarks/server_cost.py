"""What a served judgement costs: time to ready, and server CPU per candidate through gRPC.

    python benchmarks/server_cost.py [--candidates 16] [--requests 30]

Starts `adjudge-server` on the embedded critic as a process of its own and reads that process's CPU
time from the operating system (Linux). Each request carries another picture, so that nothing of it
is known to the server, which remembers nothing between requests. The baseline is the same
candidates sent in requests of one; the floor is the model's own part (its inference time, as the
server reports it).
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from adjudge_reranker import RewardClient

SEVEN = Path(__file__).parent.parent / "examples" / "images" / "seven.png"
PROMPT = "What this image presents?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--requests", type=int, default=30)
    options = parser.parse_args()

    started = time.monotonic()
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0"]
    command += ["--max-prefix-bytes", "0", "--max-feature-bytes", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip().rpartition(" ")[2]
        print(f"ready after {time.monotonic() - started:.1f} s")
        with RewardClient(address) as client:
            measure(client, server.pid, options.candidates, options.requests)
    finally:
        server.terminate()
        server.wait()


def measure(client: RewardClient, pid: int, count: int, requests: int) -> None:
    texts = [f"This is a handwritten digit, number {i}." for i in range(count)]
    client.score([picture(0), PROMPT], texts)  # the first call of a process pays for set-up
    together, alone, inference = [], [], []
    for seed in range(1, requests + 1):
        before = cpu_seconds(pid)
        result = client.score([picture(seed), PROMPT], texts)
        together.append(cpu_seconds(pid) - before)
        inference.append(result.provenance.inference_seconds)
        assert None not in result.rewards
    for seed in range(1, 6):
        before = cpu_seconds(pid)
        for text in texts:
            client.score([picture(1000 + seed), PROMPT], [text])
        alone.append(cpu_seconds(pid) - before)
    mean = 1e3 * statistics.mean(together) / count
    baseline = 1e3 * statistics.mean(alone) / count
    print(f"{count} candidates of one new picture, {requests} requests")
    print(f"  one request        {mean:6.2f} server CPU ms a candidate")
    print(f"  {count:2} requests of one {baseline:6.2f} server CPU ms a candidate")
    print(f"  ratio              {baseline / mean:6.2f}")
    print(f"  model alone        {1e3 * statistics.median(inference) / count:6.2f} ms a candidate")


def picture(seed: int) -> bytes:
    """The seven, moved and padded a little differently for each seed."""
    image = Image.open(SEVEN).convert("L")
    canvas = Image.new("L", (40 + seed % 7, 40 + seed // 7 % 7))
    canvas.paste(image, (seed % 5, seed % 3))
    canvas.putpixel((0, 0), seed % 256)
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process, in steps of a clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
