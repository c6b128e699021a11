"""What each ranking strategy finds, and what it costs: `python examples/strategies.py [--quick]`.

A policy names digits about the held-out pictures in `labelled`, either blindly or a little better
(`--policy weak`: right in three of ten answers); the embedded critic chooses among its first N
answers. Prints a table of docs/ranking.md.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from adjudge_reranker import (
    CompareResult,
    RewardClient,
    ScoreResult,
    best_of_n,
    knockout,
    round_robin,
    score_then_compare,
)

LABELLED = Path(__file__).parent / "labelled"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDINGS = (
    "This is a handwritten number {}.",
    "The picture shows the digit {}.",
    "I see a {} written by hand.",
    "It looks like a {} to me.",
    "the number {}, clearly",
    "Possibly {}?",
    "If I had to bet I would put my money on {}, without much confidence.",
    "{}",
)
SIZES = (1, 2, 4, 8, 16)
NUM_DRAWS = 2  # of answers to each picture
RIGHT = {"blind": 0.1, "weak": 0.3}


@dataclass(frozen=True)
class Question:
    picture: Path
    text: str
    digit: int


@dataclass(frozen=True)
class Choice:
    index: int
    num_scores: int
    num_comparisons: int


class Recorded:
    """What the critic says about one question, asked once: strategies share most of their pairs.

    To the strategies it is what a client is. Knows answers by their text.
    """

    def __init__(self, client: RewardClient, prompt: list[Path | str], answers: Sequence[str]):
        self._scores = client.score(prompt, answers)
        self._reward = dict(zip(answers, self._scores.outcomes, strict=True))
        pairs = list(combinations(range(len(answers)), 2))
        self._compared = client.compare(prompt, answers, pairs)
        self._comparison = {}
        for (i, j), seen in zip(pairs, self._compared.outcomes, strict=True):
            turned = replace(seen, margin=-seen.margin, preference=1 - seen.preference)
            self._comparison[answers[j], answers[i]] = turned
            self._comparison[answers[i], answers[j]] = seen

    def score(self, prompt, candidates, **options) -> ScoreResult:
        return replace(self._scores, outcomes=tuple(self._reward[c] for c in candidates))

    def compare(self, prompt, candidates, pairs, **options) -> CompareResult:
        named = [(candidates[i], candidates[j]) for i, j in pairs]
        return replace(self._compared, outcomes=tuple(self._comparison[pair] for pair in named))


Strategy = Callable[[Recorded, Sequence[str]], Choice]


def by_reward(critic: Recorded, answers: Sequence[str]) -> Choice:
    return Choice(best_of_n(critic, "", answers).best.index, len(answers), 0)


def by_knockout(critic: Recorded, answers: Sequence[str]) -> Choice:
    result = knockout(critic, "", answers)
    return Choice(result.best.index, 0, result.num_comparisons)


def by_seeded_knockout(critic: Recorded, answers: Sequence[str]) -> Choice:
    result = knockout(critic, "", answers, seeds=critic.score("", answers).rewards)
    return Choice(result.best.index, len(answers), result.num_comparisons)


def by_round_robin(critic: Recorded, answers: Sequence[str]) -> Choice:
    result = round_robin(critic, "", answers)
    return Choice(result.best.index, 0, result.num_comparisons)


def by_both(critic: Recorded, answers: Sequence[str]) -> Choice:
    result = score_then_compare(critic, critic, "", answers, top=4)
    return Choice(result.best.index, len(answers), result.num_comparisons)


STRATEGIES: dict[str, Strategy] = {
    "`best_of_n`": by_reward,
    "`knockout`": by_knockout,
    "`knockout`, seeded by rewards": by_seeded_knockout,
    "`score_then_compare`, top 4": by_both,
    "`round_robin`": by_round_robin,
}


def questions() -> list[Question]:
    """One for each picture, in the words of its first row."""
    found: dict[str, Question] = {}
    with (LABELLED / "labelled.jsonl").open(encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            (name,) = row["images"]
            digit = re.fullmatch(r"\d+-(\d)\.png", name)
            if digit:
                question = Question(LABELLED / name, row["prompt"], int(digit[1]))
                found.setdefault(name, question)
    return list(found.values())


def drawn(rng: random.Random, digit: int, chance: float) -> int:
    """The digit with that chance, else another one."""
    if rng.random() < chance:
        return digit
    return rng.choice([other for other in range(10) if other != digit])


def measure(
    client: RewardClient, asked: Sequence[Question], sizes: Sequence[int], chance: float
) -> None:
    rng = random.Random(6)
    right: dict[tuple[str, int], int] = defaultdict(int)
    spent: dict[tuple[str, int], tuple[int, int]] = {}
    oracle: dict[int, int] = defaultdict(int)
    for question in asked:
        digits = [drawn(rng, question.digit, chance) for _ in range(max(sizes))]
        answers = [rng.choice(WORDINGS).format(WORDS[digit]) for digit in digits]
        critic = Recorded(client, [question.picture, question.text], answers)
        for size in sizes:
            oracle[size] += question.digit in digits[:size]
            for name, strategy in STRATEGIES.items():
                several = size > 1  # nothing is chosen of one
                choice = strategy(critic, answers[:size]) if several else Choice(0, 0, 0)
                right[name, size] += digits[choice.index] == question.digit
                spent[name, size] = choice.num_scores, choice.num_comparisons
    print("| strategy | " + " | ".join(f"N = {size}" for size in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    share = {size: f"{oracle[size] / len(asked):.0%}" for size in sizes}
    print("| a right answer is there | " + " | ".join(share.values()) + " |")

    def lift(name: str, size: int) -> str:
        """How much of what choosing could gain it gains."""
        start, best = right[name, sizes[0]], oracle[size]
        return f", {(right[name, size] - start) / (best - start):.0%}" if best > start else ""

    for name in STRATEGIES:
        cells = []
        for size in sizes:
            num_scores, num_comparisons = spent[name, size]
            accuracy = right[name, size] / len(asked)
            cells.append(f"{accuracy:.0%} ({num_scores} + {num_comparisons})" + lift(name, size))
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six pictures, N up to 4")
    parser.add_argument("--policy", choices=sorted(RIGHT), default="blind")
    options = parser.parse_args()
    quick = options.quick
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ready = server.stdout.readline().strip()
        if not ready:
            return server.wait() or 1
        started = time.monotonic()
        asked = questions()[:6] if quick else questions() * NUM_DRAWS
        with RewardClient(ready.rpartition(" ")[2]) as client:
            measure(client, asked, SIZES[:3] if quick else SIZES, RIGHT[options.policy])
        print(f"\n{len(asked)} questions, {time.monotonic() - started:.0f} s", file=sys.stderr)
        return 0
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
