"""What stopping rules save, and what they lose: `python examples/stopping_rules.py [--quick]`.

First on rewards drawn from known distributions, then on those of the embedded critic for a policy
that does not look: random digits, in three wordings, about the held-out pictures in `labelled`.
Prints the tables of docs/generation.md.
"""

import argparse
import random
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
from strategies import WORDINGS, WORDS, questions

from adjudge_reranker import RewardClient
from adjudge_reranker.generation import ByRank, IfNormal, StoppingRule, calibrate

N = 16
RISK = 0.1
Rewards = Sequence[float]


def rarely_right(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(10, 1, N) + 80 * (rng.random(N) < 1 / 8)


def mixed(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.normal(20, 5, N) + 70 * (rng.random(N) < rng.beta(1, 2)), 0, 100)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda rng: rng.normal(50, 10, N),
    "uniform": lambda rng: rng.uniform(0, 100, N),
    "five grades": lambda rng: rng.integers(0, 5, N).astype(float),
    "log-normal": lambda rng: rng.lognormal(0, 2, N),
    "one of eight is right": rarely_right,
    "prompts easy and hard": mixed,
}


def num_seen(rule: StoppingRule, row: Rewards) -> int:
    for seen in range(1, N):
        if rule.risk(row[:seen], N - seen, N) <= rule.max_risk:
            return seen
    return N


def cell(rule: StoppingRule, rows: Sequence[Rewards], tolerance: float = 0.0) -> str:
    seen = [num_seen(rule, row) for row in rows]
    lost = [max(row[:n]) < max(row) - tolerance for n, row in zip(seen, rows, strict=True)]
    return f"{np.mean(lost):.0%} of prompts, {np.mean(seen):.1f} of {N}"


def table(name: str, history: Sequence[Rewards], rows: Sequence[Rewards], tolerance: float) -> str:
    calibrated = calibrate(history, max_risk=RISK, num_candidates=N)
    tolerant = calibrate(history, max_risk=RISK, num_candidates=N, tolerance=tolerance)
    cells = [cell(rule, rows) for rule in (ByRank(RISK), IfNormal(RISK), calibrated)]
    return f"| {' | '.join([name, *cells, cell(tolerant, rows, tolerance)])} |"


def judged(client: RewardClient, num_rows: int, max_pictures: int | None) -> list[list[Rewards]]:
    """Rows for each picture. Its answers are scored once, however often they are drawn."""
    rng = random.Random(1)
    answers = [wording.format(word) for wording in WORDINGS[:3] for word in WORDS]
    rows = []
    for question in questions()[:max_pictures]:
        rewards = client.score([question.picture, question.text], answers).rewards
        known = [reward for reward in rewards if reward is not None]
        rows.append([rng.choices(known, k=N) for _ in range(num_rows)])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few prompts")
    parser.add_argument("--critic-only", action="store_true", help="no known distributions")
    arguments = parser.parse_args()
    quick = arguments.quick
    count = 50 if quick else 1000
    print("| rewards | `ByRank` | `IfNormal` | `calibrate` | `calibrate`, tolerance |")
    print("|---|---|---|---|---|")
    for name, draw in () if arguments.critic_only else DISTRIBUTIONS.items():
        rng = np.random.default_rng(1)
        history, rows = ([draw(rng).tolist() for _ in range(count)] for _ in range(2))
        tolerance = 0.2 * float(np.std(np.concatenate(history)))
        print(table(f"{name} ({tolerance:.2g})", history, rows, tolerance), flush=True)
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ready = server.stdout.readline().strip()
        if not ready:
            return server.wait() or 1
        with RewardClient(ready.rpartition(" ")[2], timeout=None) as client:
            # Half of the pictures justify the threshold, the other half test it. Rows of one
            # picture are alike, so these are fewer independent prompts than rows.
            pictures = judged(client, 25, 4 if quick else None)
        half = len(pictures) // 2
        history, rows = (
            [row for rows in some for row in rows] for some in (pictures[:half], pictures[half:])
        )
        print(table("embedded critic (10)", history, rows, 10.0))
        return 0
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
