"""Makes preference pairs about the pictures in `labelled`: `python examples/mine_preferences.py`.

A policy that does not look answers about held-out digits; the embedded critic scores its answers
and says in both orders which of two is better. The pairs are in the format of TRL's DPOTrainer:

    load_dataset("json", data_files="pairs.jsonl").cast_column("images", List(Image()))
"""

import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from adjudge_reranker import RewardClient
from adjudge_reranker.mining import Journal, Mined, Options, Plan, PromptFile, mine

LABELLED = Path(__file__).parent / "labelled"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUM_PROMPTS = 12
NUM_CANDIDATES = 6


def write_candidates(path: Path) -> dict[int, str]:
    """The word for the digit of each line, which the critic never sees."""
    rng = random.Random(6)
    pictures = sorted(LABELLED.glob("*.png"))[:NUM_PROMPTS]
    truth = {}
    with path.open("w", encoding="utf-8") as file:
        for number, picture in enumerate(pictures):
            truth[number] = WORDS[int(re.findall(r"-(\d)", picture.name)[0])]
            words = rng.sample(WORDS, NUM_CANDIDATES)
            row = {
                "id": picture.stem,
                "prompt": "What this image presents?",
                "images": [str(picture)],
                "candidates": [f"This is a handwritten number {word}." for word in words],
            }
            print(json.dumps(row), file=file)
    return truth


def mine_pairs(address: str, folder: Path) -> None:
    truth = write_candidates(folder / "candidates.jsonl")
    source = PromptFile.check(folder / "candidates.jsonl", LABELLED)
    num_pairs = num_right = num_seen = 0
    with RewardClient(address) as client:
        plan = Plan.make(client.model(), Options(min_margin=5.0, verify=True))
        with Journal.open(folder / "pairs.jsonl", source, plan) as journal:
            for outcome in mine(client, source, plan, journal):
                if not isinstance(outcome, Mined):
                    print(f"{outcome.prompt.id}: no pair, {outcome.reason}")
                    continue
                texts, right = outcome.prompt.texts, truth[outcome.prompt.number]
                for pair in outcome.pairs:
                    chosen, rejected = texts[pair.chosen], texts[pair.rejected]
                    print(f"{outcome.prompt.id}: {chosen} > {rejected}  ({pair.margin:.0f} points)")
                    num_pairs += 1
                    if any(right in text for text in texts):
                        num_seen += 1
                        num_right += right in chosen
    print(f"{num_pairs} pairs; chosen is right in {num_right} of {num_seen} that could be right")


def main() -> int:
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ready = server.stdout.readline().strip()
        if not ready:
            return server.wait() or 1
        with tempfile.TemporaryDirectory() as folder:
            mine_pairs(ready.rpartition(" ")[2], Path(folder))
        return 0
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
