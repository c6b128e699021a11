"""A critic without a model: deterministic numbers from the text, for trainer authors and tests.

A candidate's hidden quality in (0, 1) is a hash of prompt, pictures and candidate. Scores spread
around it, verdicts follow the difference of two, with a little position bias and some ties, so that
code built on it meets every number that a real critic gives. The numbers mean nothing.
"""

import hashlib
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adjudge_server import leaving
from adjudge_server.caches import Memory
from adjudge_server.critic import CriticCard, Query, Reading, Spare, Written
from adjudge_server.errors import InputTooLong
from adjudge_server.template_sets import templates_of
from adjudge_server.templates import Kind, RewardKind, Template, VerdictPlace
from adjudge_server.verdict import boundary

VALID_MASS = 0.98
OPENING_MASS = -0.02
SPREAD = 0.08
"""Standard deviation of the scores, as a part of their range."""
SHARPNESS = 8.0
"""Nats of margin, or of log-odds, between the best and the worst quality."""
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
    """See the module. A token is a word of the prompt; a picture is 16 of them. Its weights are the
    name of the directory that they were loaded from, on which every number then depends."""

    def __init__(
        self,
        *,
        name: str = "fake",
        max_input_tokens: int = 4096,
        templates: Sequence[Template] | None = None,
        seconds_per_token: float = 0.0,
    ) -> None:
        """`seconds_per_token`: what a token costs in `forward`, asleep. Raises ValueError for less
        than nothing."""
        if not 0.0 <= seconds_per_token < math.inf:
            raise ValueError(f"{seconds_per_token} seconds per token: must be 0 or more")
        self._seconds_per_token = seconds_per_token
        self.card = CriticCard(
            name=name,
            revision="1",
            fingerprint=_fingerprint("1"),
            family="fake",
            dtype="float64",
            device="cpu",
            templates=tuple(templates_of("embedded") if templates is None else templates),
            sees_images=True,
            max_input_tokens=max_input_tokens,
        )
        self._weights = ""

    def prepare(self, queries: Sequence[Query]) -> list[FakePrepared | InputTooLong]:
        return [self._prepare(query) for query in queries]

    def _prepare(self, query: Query) -> FakePrepared | InputTooLong:
        leaving.check()
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
                Reading(OPENING_MASS, self._answers(item.query), shared + item.own_tokens)
            )
        time.sleep(self._seconds_per_token * sum(r.computed_tokens for r in readings))
        return readings

    def forget(self) -> None:
        pass

    def memory(self) -> Memory:
        return Memory()

    def read_weights(self, directory: Path) -> Spare:
        name = directory.name
        card = replace(self.card, revision=name, fingerprint=_fingerprint(name))
        return Spare(card, {"name": name})

    def exchange(self, spare: Spare) -> None:
        self.card, spare.card = spare.card, self.card
        self._weights, spare.tensors = spare.tensors["name"], {"name": self._weights}

    def _answers(self, query: Query) -> NDArray[np.float64]:
        if self._weights:
            query = replace(query, prompt=f"{self._weights}\0{query.prompt}")
        return _answer_log_probs(query)

    def critique(self, item: FakePrepared, max_tokens: int) -> Generator[Written, None, None]:
        """Where the template wants it: the verdict and then the reasons, or the other way round."""
        template = item.query.template
        best = template.answers[int(self._answers(item.query).argmax())]
        verdict = f"{template.opening}{best.forms[0]}"
        if template.verdict is not VerdictPlace.LAST and not template.after:
            text = f"{verdict}. I am a fake and looked at nothing."
        else:
            text = f"I am a fake and looked at nothing. {template.after}\n{verdict}"
        for token, word in enumerate(text.split(" ")[:max_tokens]):
            yield Written(token, word if token == 0 else f" {word}")

    def after(
        self, item: FakePrepared, written: Sequence[Written], start: int, opening: str
    ) -> FakePrepared:
        return replace(item, own_tokens=item.own_tokens + boundary(written, start)[0])


def _fingerprint(revision: str) -> str:
    return hashlib.sha256(f"adjudge fake critic {revision}".encode()).hexdigest()


def _quality(query: Query, candidate: str) -> float:
    pictures = "".join(picture.digest for picture in query.pictures)
    digest = hashlib.sha256("\0".join([query.prompt, pictures, candidate]).encode())
    return (int.from_bytes(digest.digest()[:6], "big") + 0.5) / 2**48


def _answer_log_probs(query: Query) -> NDArray[np.float64]:
    template = query.template
    qualities = [_quality(query, candidate) for candidate in query.candidates]
    if template.kind is Kind.PAIRWISE:
        log_probs = _verdicts(qualities[0] - qualities[1], ties=len(template.answers) == 3)
    elif template.reward is RewardKind.LOG_ODDS:
        log_probs = _two(SHARPNESS * (qualities[0] - 0.5))
    else:
        log_probs = _scores(np.array(template.scores), qualities[0])
    result: NDArray[np.float64] = log_probs + np.log(VALID_MASS)
    return result


def _scores(scores: NDArray[np.float64], quality: float) -> NDArray[np.float64]:
    extent = scores.max() - scores.min()
    center = scores.min() + quality * extent
    logits: NDArray[np.float64] = -((scores - center) ** 2) / (2 * (SPREAD * extent) ** 2)
    return logits - float(np.logaddexp.reduce(logits))


def _verdicts(difference: float, *, ties: bool) -> NDArray[np.float64]:
    verdicts = _two(SHARPNESS * difference + POSITION_BIAS)
    return np.append(verdicts + np.log1p(-TIE), np.log(TIE)) if ties else verdicts


def _two(margin: float) -> NDArray[np.float64]:
    first = -np.logaddexp(0.0, -margin)
    return np.array([first, first - margin])
