"""What is asked: pictures, responses, and the prepared prompts of a critic."""

import io
import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from PIL import Image

from adjudge_server.content import EncodedImage, Message, Question, Role
from adjudge_server.critic import CriticCard
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.images import decode
from adjudge_server.queries import Asked, Limits, ask
from adjudge_server.templates import Kind

Size = tuple[int, int]
"""Width and height of a picture in pixels."""

PROMPT = "What does this picture show, and how many people are in it?"
LIMITS = Limits(max_images=1, max_candidates=256, max_pairs=1024)
SENTENCE = """
the picture shows a person who holds some of the red and white flowers in one hand and a small book
in the other while two more people stand behind the table near an open window on the left side
where light comes in and there is also an old chair with a black cat under it
"""
WORDS = SENTENCE.split()
WORDS_EACH = (34, 40)
"""Of a response: some 55 tokens of the generated tokenizer with the template's around it."""


def picture(size: Size, seed: int) -> bytes:
    """A JPEG file of soft colours, another one for each seed."""
    random_ = np.random.default_rng(seed)
    coarse = random_.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def responses(count: int, seed: int) -> list[str]:
    """Different from each other from the first words on."""
    random_ = random.Random(seed)
    return [
        f"{' '.join(random_.choices(WORDS, k=random_.randint(*WORDS_EACH)))} ({seed}, {number})."
        for number in range(count)
    ]


def asked(card: CriticCard, kind: Kind, image: bytes, template: str = "") -> Asked:
    question = Question((Message(Role.USER, (PROMPT, EncodedImage(image))),), template)
    return ask(question, kind, card, LIMITS, lambda i: decode(i, max_pixels=10**8))


def pointwise(
    critic: LlavaOnevisionCritic, image: bytes, texts: Sequence[str], template: str = ""
) -> list[PreparedPrompt]:
    """One prompt per response."""
    question = asked(critic.card, Kind.POINTWISE, image, template)
    return _sound(critic.prepare([question.query({"candidate": text}) for text in texts]))


def pairwise(
    critic: LlavaOnevisionCritic, image: bytes, texts: Sequence[str], pairs: Sequence[Size]
) -> list[PreparedPrompt]:
    """Two prompts per pair, both orders."""
    question = asked(critic.card, Kind.PAIRWISE, image)
    orders = [order for a, b in pairs for order in ((a, b), (b, a))]
    queries = [question.query({"first": texts[a], "second": texts[b]}) for a, b in orders]
    return _sound(critic.prepare(queries))


def chain(count: int) -> list[tuple[int, int]]:
    """`count` pairs of `count` + 1 responses."""
    return [(i, i + 1) for i in range(count)]


def round_robin(count: int) -> list[tuple[int, int]]:
    return list(combinations(range(count), 2))


def _sound(prepared: Sequence[PreparedPrompt | Exception]) -> list[PreparedPrompt]:
    for item in prepared:
        if isinstance(item, Exception):
            raise item
    return [item for item in prepared if isinstance(item, PreparedPrompt)]
