"""Runs `adjudge mine` as a process of its own, and reads what it leaves behind."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from adjudge_reranker.cli import main
main()
"""
ROW = {"prompt": "Why?", "candidates": ["so", "because", "who knows"]}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(address: str, file: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, "mine", str(file), "--out", str(out)]
    command += ["--server", address, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(address: str, file: Path, out: Path, *options: str) -> tuple[int, str, str]:
    process = start(address, file, out, *options)
    printed, complaints = process.communicate(timeout=120)
    return process.returncode, printed, " ".join(complaints.replace("│", " ").split())


def finish(address: str, file: Path, out: Path, *options: str) -> None:
    """Runs it, and insists that nothing fails."""
    code, printed, complaints = run(address, file, out, *options)
    assert code == 0, f"{printed}\n{complaints}"


def read(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def journal(out: Path) -> list[dict[str, Any]]:
    """What became of each prompt, in the order of writing."""
    path = out.with_name(f"{out.name}.journal")
    return [entry for entry in read(path) if "run" not in entry] if path.exists() else []


def num_lines(out: Path) -> int:
    path = out.with_name(f"{out.name}.journal")
    return path.read_bytes().count(b"\n") if path.exists() else 0
