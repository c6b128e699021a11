"""Chat layouts: a critic's prompt as pieces of text and special tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

SYSTEM = "You are a helpful assistant."
START, END, IMAGE = "<|im_start|>", "<|im_end|>", "<image>"


@dataclass(frozen=True, slots=True)
class Special:
    """One of the layout's own special tokens; the only way one gets into a prompt."""

    text: str
    is_image: bool = False
    """Whether it stands for a picture's features."""


Piece = str | Special


@dataclass(frozen=True, slots=True)
class Chat:
    """How a critic is spoken to."""

    pieces: Callable[[str, int], list[Piece]]
    """The whole prompt around the user's text and a number of pictures, up to and including `turn`.
    Neighbouring texts are one string, because that is how they must be tokenised."""
    turn: str
    """Between the last special token and the critic's first word; may be empty."""
    end: str
    """The special token that ends the critic's turn."""
    lead: str = ""
    """What the critic's words begin with: a space, where the layout has one before every answer but
    leaves it to the critic to write it."""


def _chatml(text: str, num_pictures: int, *, turn: str) -> list[Piece]:
    pieces: list[Piece] = [Special(START), f"system\n{SYSTEM}", Special(END), "\n", Special(START)]
    before = "user\n"
    for _ in range(num_pictures):
        pieces += [before, Special(IMAGE, is_image=True)]
        before = "\n"
    return [*pieces, before + text, Special(END), "\n", Special(START), turn]


QWEN_1_5 = Chat(partial(_chatml, turn="assistant\n"), "assistant\n", END)
"""The layout that LLaVA-OneVision and LLaVA-Critic were trained in, `qwen_1_5` of the original
code: a system turn, then the pictures, one a line, then the text."""
