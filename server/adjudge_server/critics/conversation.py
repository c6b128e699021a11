"""The chat layout that LLaVA-OneVision and LLaVA-Critic were trained in, as pieces.

It is `qwen_1_5` of the original code: a system turn, then the pictures, one a line, then the text.
"""

from dataclasses import dataclass

SYSTEM = "You are a helpful assistant."
TURN = "assistant\n"
"""Between the last special token and the critic's first word."""
START, END, IMAGE = "<|im_start|>", "<|im_end|>", "<image>"


@dataclass(frozen=True, slots=True)
class Special:
    """One of the layout's own special tokens; the only way one gets into a prompt."""

    text: str


Piece = str | Special


def conversation(text: str, num_pictures: int) -> list[Piece]:
    """The user's turn around `text`, up to and including the start of the critic's own turn.

    Neighbouring texts are one string, because that is how they must be tokenised.
    """
    pieces: list[Piece] = [Special(START), f"system\n{SYSTEM}", Special(END), "\n", Special(START)]
    before = "user\n"
    for _ in range(num_pictures):
        pieces += [before, Special(IMAGE)]
        before = "\n"
    return [*pieces, before + text, Special(END), "\n", Special(START), TURN]
