"""A critic without a model: deterministic numbers from the text, for trainer authors and tests.

A candidate's hidden quality in (0, 1) is a hash of prompt, pictures and candidate. Scores spread
around it, verdicts follow the difference of two, with a little position bias and some ties, so that
code built on it meets every number that a real critic gives. The numbers mean nothing.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adjudge_server.critic import CriticCard, Query, Reading, Written
from adjudge_server.errors import InputTooLong
from adjudge_server.templates import Kind, builtin_templates

VALID_MASS = 0.98
OPENING_MASS = -0.02
SPREAD = 8.0
"""Standard deviation of the scores."""
SHARPNESS = 8.0
"""Nats of margin between the best and the worst quality."""
POSITION_BIAS = 0.25
"""Nats in favour of whoever stands first."""
TIE = 0.1
"""Probability of a tie."""


@dataclass(frozen=True, slots=True, eq=False)
class FakePrepared:
    query: Query
    group: str
    shared_tokens: int
    own_tokens: int
    image_tokens: int


class FakeCritic:
    """See the module. A token is a word of the prompt; a picture is 16 of them."""

    def __init__(self, *, name: str = "fake", max_input_tokens: int = 4096) -> None:
        self.card = CriticCard(
            name=name,
            revision="1",
            fingerprint=hashlib.sha256(b"adjudge fake critic 1").hexdigest(),
            family="fake",
            dtype="float64",
            device="cpu",
            templates=builtin_templates(),
            sees_images=True,
            max_input_tokens=max_input_tokens,
        )

    def prepare(self, queries: Sequence[Query]) -> list[FakePrepared | InputTooLong]:
        return [self._prepare(query) for query in queries]

    def _prepare(self, query: Query) -> FakePrepared | InputTooLong:
        image_tokens = 16 * len(query.pictures)
        shared = image_tokens + len(query.head.split())
        own = len(query.text.split()) - len(query.head.split()) + 1
        if shared + own > self.card.max_input_tokens:
            return InputTooLong(
                f"{shared + own} tokens, the critic takes {self.card.max_input_tokens}",
                actual=shared + own,
                maximum=self.card.max_input_tokens,
            )
        return FakePrepared(query, query.group, shared, own, image_tokens)

    def forward(self, batch: Sequence[FakePrepared]) -> list[Reading]:
        seen: set[str] = set()
        readings = []
        for item in batch:
            shared = 0 if item.group in seen else item.shared_tokens
            seen.add(item.group)
            readings.append(
                Reading(OPENING_MASS, _answer_log_probs(item.query), shared + item.own_tokens)
            )
        return readings

    def critique(self, item: FakePrepared, max_tokens: int) -> Generator[Written, None, None]:
        template = item.query.template
        best = template.answers[int(_answer_log_probs(item.query).argmax())]
        text = f"{template.opening}{best.forms[0]}. I am a fake and looked at nothing."
        for token, word in enumerate(text.split(" ")[:max_tokens]):
            yield Written(token, word if token == 0 else f" {word}")

    def after(self, item: FakePrepared, text: str) -> FakePrepared:
        return replace(item, own_tokens=item.own_tokens + len(text.split()))


def _quality(query: Query, candidate: str) -> float:
    pictures = "".join(picture.digest for picture in query.pictures)
    digest = hashlib.sha256("\0".join([query.prompt, pictures, candidate]).encode())
    return (int.from_bytes(digest.digest()[:6], "big") + 0.5) / 2**48


def _answer_log_probs(query: Query) -> NDArray[np.float64]:
    qualities = [_quality(query, candidate) for candidate in query.candidates]
    if query.template.kind is Kind.POINTWISE:
        scores = np.array(query.template.scores)
        center = scores.min() + qualities[0] * (scores.max() - scores.min())
        logits = -((scores - center) ** 2) / (2 * SPREAD**2)
        log_probs = logits - np.logaddexp.reduce(logits)
    else:
        margin = SHARPNESS * (qualities[0] - qualities[1]) + POSITION_BIAS
        first = -np.logaddexp(0.0, -margin)
        log_probs = np.array([first, first - margin, 0.0]) + np.log1p(-TIE)
        log_probs[2] = np.log(TIE)
    result: NDArray[np.float64] = log_probs + np.log(VALID_MASS)
    return result
