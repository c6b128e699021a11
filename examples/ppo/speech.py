"""What the policy can say: its wordings, its vocabulary, and what an answer claims."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence

QUESTION = "What digit is this?"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = (
    "This is a handwritten number {}.",
    "It is a {}.",
    "It could be a {} or a {}.",  # a hedge, which the critic pays for in part
)


def blind_answer(rng: random.Random) -> str:
    """An answer in one of the wordings, about no picture."""
    wording = rng.choice(WORDINGS)
    return wording.format(*rng.sample(WORDS, wording.count("{}")))


def vocabulary() -> list[str]:
    """Every piece that question and answers are made of."""
    texts = [QUESTION, *(wording.format("zero", "zero") for wording in WORDINGS), " ".join(WORDS)]
    return sorted({piece for text in texts for piece in re.findall(r"\w+|[^\w\s]", text)})


def named_digits(answer: str) -> list[int]:
    """The digits that the answer names, in order."""
    return [WORDS.index(word) for word in re.findall(r"\w+", answer.lower()) if word in WORDS]


def is_right(answer: str, label: int) -> bool:
    """Whether the answer names one digit, once, and it is the label. A hedge is not right."""
    return named_digits(answer) == [label]


def accuracy(answers: Sequence[str], labels: Sequence[int]) -> float:
    """The share of right answers."""
    rights = [is_right(answer, label) for answer, label in zip(answers, labels, strict=True)]
    return sum(rights) / len(rights)


def wordings_used(answers: Iterable[str]) -> dict[str, float]:
    """The share of each wording, digits replaced by #, the commonest five first."""
    digit = re.compile(rf"\b({'|'.join(WORDS)})\b")
    counts = Counter(digit.sub("#", answer) for answer in answers)
    return {wording: n / counts.total() for wording, n in counts.most_common(5)}
