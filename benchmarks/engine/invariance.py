"""Whether a response's number depends on who else is in its batch, or on what is remembered."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.engine.questions import Size, pairwise, picture, pointwise, responses

from adjudge_server import readout
from adjudge_server.critic import Reading
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.templates import Kind

PICTURES, TEXTS = 2, 5
PAIRS = ((0, 1), (2, 3), (0, 4))
LARGEST_BATCH = 24


@dataclass(frozen=True, slots=True)
class Changes:
    """The largest ones seen."""

    reward: float
    """Points."""
    margin: float
    """Nats, of a both-orders comparison."""
    batches: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Prompts, and what a critic that remembers nothing says to each by itself."""

    items: list[PreparedPrompt]
    alone: list[Reading]


def pool(critic: LlavaOnevisionCritic, size: Size) -> Pool:
    items: list[PreparedPrompt] = []
    for seed in range(PICTURES):
        image, texts = picture(size, seed), responses(TEXTS, seed)
        items += pointwise(critic, image, texts)
        items += pairwise(critic, image, texts, PAIRS)
    return Pool(items, [critic.forward([item])[0] for item in items])


def changes(known: Pool, critic: LlavaOnevisionCritic, batches: int) -> Changes:
    """Of random batches against the prompts alone.

    `critic` is the same model with the caches under test: large ones, none, or ones that evict.
    Batches mix pictures, both kinds of question, orders, and repeated prompts.
    """
    random_ = random.Random(0)
    reward = margin = 0.0
    for _ in range(batches):
        chosen = random_.choices(range(len(known.items)), k=random_.randint(1, LARGEST_BATCH))
        readings = critic.forward([known.items[i] for i in chosen])
        for index, reading in zip(chosen, readings, strict=True):
            item = known.items[index]
            change = _change(item, reading, known.alone[index])
            if item.template.kind is Kind.POINTWISE:
                reward = max(reward, change)
            else:
                margin = max(margin, change)
    return Changes(reward, margin, batches)


def largest(several: Sequence[Changes]) -> Changes:
    return Changes(
        max(c.reward for c in several),
        max(c.margin for c in several),
        sum(c.batches for c in several),
    )


def _change(item: PreparedPrompt, one: Reading, other: Reading) -> float:
    """A both-orders margin is the mean of two, and so changes by no more than one order's does."""
    if item.template.kind is Kind.POINTWISE:
        rewards = [_expected(item, reading) for reading in (one, other)]
        return abs(rewards[0] - rewards[1])
    margins = [
        reading.answer_log_probs[0] - reading.answer_log_probs[1] for reading in (one, other)
    ]
    return float(abs(margins[0] - margins[1]))


def _expected(item: PreparedPrompt, reading: Reading) -> float:
    """Whatever the critic thinks of the format: a random one is off it."""
    log_probs = reading.answer_log_probs
    if not np.isfinite(log_probs).all():
        return readout.reward(item.template, reading).reward  # raises
    weights = np.exp(log_probs - log_probs.max())
    return float(np.array(item.template.scores) @ weights / weights.sum())
