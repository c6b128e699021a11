"""A run that is interrupted goes on where it was: nothing twice, nothing lost, no half line."""

import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adjudge_server.serve import Server
from tests.reranker.mining.mining import ROW, finish, journal, num_lines, read, start, write

LABELLED = Path(__file__).parents[3] / "examples" / "labelled"
NUM_PROMPTS = 200


def many(tmp_path: Path) -> Path:
    return write(
        tmp_path / "in.jsonl", (ROW | {"prompt": f"Why {i}?", "id": i} for i in range(NUM_PROMPTS))
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_ends_up_the_same_byte_for_byte(
    address: str, tmp_path: Path, kill: signal.Signals
) -> None:
    file, whole, broken = many(tmp_path), tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    options = ("--pairing", "best-random", "--seed", "3", "--verify")
    finish(address, file, whole, *options)
    rng = random.Random(7)
    num_kills = 0
    for _ in range(3):
        before = num_lines(broken)
        process = start(address, file, broken, *options)
        enough = before + rng.randrange(1, NUM_PROMPTS // 8)
        while process.poll() is None and num_lines(broken) < enough:
            time.sleep(0.001)
        process.send_signal(kill)
        _, complaints = process.communicate(timeout=60)
        num_kills += process.returncode in (-signal.SIGKILL, 130)
        if kill is signal.SIGINT and process.returncode == 130:
            assert "goes on from here" in complaints and "Traceback" not in complaints
    assert num_kills == 3
    assert num_lines(broken) < NUM_PROMPTS
    finish(address, file, broken, *options)
    assert broken.read_bytes() == whole.read_bytes()
    assert [entry["id"] for entry in journal(broken)] == list(range(NUM_PROMPTS))
    assert len(read(whole)) == sum(e.get("num_pairs", 0) for e in journal(whole)) > NUM_PROMPTS // 4


def test_with_a_real_critic_and_pictures_too(embedded_server: Server, tmp_path: Path) -> None:
    address = f"127.0.0.1:{embedded_server.port}"
    words = ("one", "seven", "nine", "four")
    rows = [
        {
            "prompt": "What is this?",
            "images": [path.name],
            "candidates": [f"This is a handwritten number {word}." for word in words],
        }
        for path in sorted(LABELLED.glob("*.png"))
        if re.search("-[1479]", path.name)
    ][:12]
    file, whole, broken = write(tmp_path / "in.jsonl", rows), tmp_path / "1", tmp_path / "2"
    options = ("--images", str(LABELLED), "--verify", "--min-margin", "5")
    finish(address, file, whole, *options)
    process = start(address, file, broken, *options)
    while process.poll() is None and num_lines(broken) < 3:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    finish(address, file, broken, *options)
    found, again = read(whole), read(broken)
    assert len(found) == len(again) > len(rows) / 3
    for one, other in zip(found, again, strict=True):
        # What a batch holds besides a question moves its answer a little (see noise_floor).
        for number in ("chosen_reward", "rejected_reward", "margin"):
            assert one.pop(number) == pytest.approx(other.pop(number), abs=0.01)
        for provenance in (one["provenance"], other["provenance"]):
            provenance.pop("comparison")
        assert one == other
    right = [
        words[int(row["provenance"]["chosen_index"])]
        == {"1": "one", "4": "four", "7": "seven", "9": "nine"}[
            re.search(r"-(\d)", row["images"][0])[1]  # type: ignore[index]
        ]
        for row in found
    ]
    assert sum(right) / len(right) > 0.7


@pytest.mark.parametrize("cut", [1, 30, 500])
def test_a_half_line_in_either_file_is_made_good(address: str, tmp_path: Path, cut: int) -> None:
    file = write(tmp_path / "in.jsonl", (ROW | {"prompt": f"{i}?"} for i in range(20)))
    out = tmp_path / "out.jsonl"
    kept = out.with_name("out.jsonl.journal")
    finish(address, file, out)
    whole, entries = out.read_bytes(), kept.read_bytes()
    out.write_bytes(whole[:-cut])  # as after a loss of power
    finish(address, file, out)
    assert out.read_bytes() == whole and kept.read_bytes() == entries
    kept.write_bytes(entries[:-cut])
    out.write_bytes(whole + b'{"prompt": "hal')
    finish(address, file, out)
    assert out.read_bytes() == whole and kept.read_bytes() == entries


def test_a_killed_server_leaves_a_typed_failure_that_is_asked_about_again(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "adjudge_server", "--critic", "fake", "--listen", address]

    def serve() -> subprocess.Popen[str]:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert server.stdout is not None and server.stdout.readline()
        return server

    file, out, whole = many(tmp_path), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    with serve() as server:
        process = start(address, file, out, "--timeout", "5")
        while process.poll() is None and num_lines(out) < NUM_PROMPTS // 4:
            time.sleep(0.001)
        server.kill()
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 3 and "stayed unavailable" in complaints
    assert "not judged yet" in printed
    *settled, failed = journal(out)
    assert {entry["outcome"] for entry in settled} <= {"paired", "skipped"}
    assert failed["outcome"] == "failed" and failed["error"]["kind"] == "ServerUnavailable"
    with serve() as server:
        finish(address, file, out, "--timeout", "5")
        finish(address, file, whole)
        server.kill()
    assert out.read_bytes() == whole.read_bytes()
    assert [entry["id"] for entry in journal(out) if entry["outcome"] != "failed"] == list(
        range(NUM_PROMPTS)
    )
