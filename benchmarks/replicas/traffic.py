"""Questions about pictures that come back, and what is found when their answers come."""

import io
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from adjudge_reranker import RewardClient, RewardError

SEVEN = Path(__file__).parent.parent.parent / "examples" / "images" / "seven.png"
PROMPT = "What this image presents?"
TEXTS = tuple(
    f"{opening}{digit}."
    for opening in ("This is a handwritten number ", "It may be a ", "I see the digit ")
    for digit in range(10)
)
PER_REQUEST = 4
TOLERANCE = 0.01
"""Points of 100, by which a reward may differ with its batch (see benchmarks.engine); how much it
did is told beside it."""


@dataclass(frozen=True, slots=True)
class Question:
    picture: int
    texts: tuple[int, ...]
    """Indices into TEXTS."""


def questions(num_pictures: int, seed: int) -> Iterator[Question]:
    """Without end: each picture once in every round, in an order of its own; texts at random."""
    chance = random.Random(seed)
    for _ in itertools.count():
        for picture in chance.sample(range(num_pictures), num_pictures):
            yield Question(picture, tuple(chance.sample(range(len(TEXTS)), PER_REQUEST)))


def pictures(count: int) -> list[bytes]:
    """PNG files of a seven, each moved and marked in another way."""
    seven = Image.open(SEVEN).convert("L")
    made = []
    for number in range(count):
        canvas = Image.new("L", (40 + number % 7, 40 + number // 7 % 7))
        canvas.paste(seven, (number % 5, number % 3))
        canvas.putpixel((number % 40, number // 40 % 40), 255)
        file = io.BytesIO()
        canvas.save(file, "PNG")
        made.append(file.getvalue())
    return made


Truth = Mapping[int, tuple[float, ...]]
"""Of each picture, the reward of each text."""


def truth(client: RewardClient, files: list[bytes]) -> Truth:
    """As one server says it that nobody disturbs, one request at a time."""
    rewards: dict[int, tuple[float, ...]] = {}
    for number, file in enumerate(files):
        answered = client.score([file, PROMPT], TEXTS).rewards
        rewards[number] = tuple(reward for reward in answered if reward is not None)
        assert len(rewards[number]) == len(TEXTS)
    return rewards


@dataclass(slots=True)
class Found:
    """By all threads of one phase."""

    seconds: list[float] = field(default_factory=list)
    """Of each call that was answered, failed attempts and waiting included."""
    num_wrong: int = 0
    """Rewards that are not the true ones."""
    largest_difference: float = 0.0
    """Of a reward from the true one, points."""
    failures: Counter[str] = field(default_factory=Counter)
    """Calls and candidates without a reward, by error."""
    num_rewards: int = 0

    def quantile(self, share: float) -> float:
        """Seconds; NaN where nothing was answered."""
        ordered = sorted(self.seconds)
        return (
            ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")
        )


Choose = Callable[[Question], RewardClient]


def ask(
    choose: Choose, asked: Iterable[Question], files: list[bytes], true: Truth, num_threads: int
) -> Found:
    """Asks all, each question of the client that `choose` says, and checks every answer."""
    found, lock, source = Found(), threading.Lock(), iter(asked)

    def work() -> None:
        while True:
            with lock:
                question = next(source, None)
            if question is None:
                return
            _ask_one(choose(question), question, files, true, found, lock)

    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _ask_one(
    client: RewardClient,
    question: Question,
    files: list[bytes],
    true: Truth,
    found: Found,
    lock: threading.Lock,
) -> None:
    began = time.monotonic()
    try:
        texts = [TEXTS[index] for index in question.texts]
        result = client.score([files[question.picture], PROMPT], texts)
    except RewardError as error:
        with lock:
            found.failures[f"call: {type(error).__name__}"] += 1
        return
    took = time.monotonic() - began
    expected = [true[question.picture][index] for index in question.texts]
    with lock:
        found.seconds.append(took)
        for reward, right in zip(result.rewards, expected, strict=True):
            if reward is None:
                found.failures["candidate"] += 1
            else:
                found.num_rewards += 1
                difference = abs(reward - right)
                found.num_wrong += not difference <= TOLERANCE
                found.largest_difference = max(found.largest_difference, difference)
