"""Small Qwen2.5-VL checkpoints with random weights, as transformers writes them and as they are
published."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.server.checkpoints import tiny_tokenizer

VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
STEP = 28
"""Pixels along a feature's side."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Lays out what the published one does."""
PREPROCESSOR: dict[str, Any] = {
    "min_pixels": 4 * STEP * STEP,
    "max_pixels": 24 * STEP * STEP,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
"""As the published ones have it, but for smaller pictures."""


@cache
def vision_tokenizer() -> str:
    """tokenizer.json of the tiny one, with tokens for pictures."""
    tokenizer = Tokenizer.from_str(tiny_tokenizer())
    tokenizer.add_special_tokens(VISION_TOKENS)
    return str(tokenizer.to_str())


def configuration(tokenizer: str, *, tied: bool = False) -> Qwen2_5_VLConfig:
    added = {t["content"]: t["id"] for t in json.loads(tokenizer)["added_tokens"]}
    size = Tokenizer.from_str(tokenizer).get_vocab_size(with_added_tokens=True)
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "out_hidden_size": 32,
            "window_size": 2 * STEP,
            "fullatt_block_indexes": [1],
        },
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": size + 24,
            "max_position_embeddings": 4096,
            "eos_token_id": added["<|im_end|>"],
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 1, 1],
            },
        },
        image_token_id=added["<|image_pad|>"],
        video_token_id=added["<|video_pad|>"],
        vision_start_token_id=added["<|vision_start|>"],
        vision_end_token_id=added["<|vision_end|>"],
        tie_word_embeddings=tied,
    )


def write_qwen2_5_vl(directory: Path, *, tied: bool = False) -> Path:
    """As transformers writes it; its head has padding rows, as real ones do."""
    tokenizer = vision_tokenizer()
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(configuration(tokenizer, tied=tied))
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.ndim > 1):
            parameter.mul_(4)  # as initialised, everything is nearly uniform
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return directory


def as_published(source: Path, directory: Path) -> Path:
    """The same model as the published ones are laid out: the decoder's keys at the top of the
    configuration, older names of tensors, and the chat template in JSON."""
    directory.mkdir()
    config = json.loads((source / "config.json").read_text())
    text, vision = config.pop("text_config"), config.pop("vision_config")
    rope = text.pop("rope_parameters")
    for key in ("model_type", "layer_types"):
        text.pop(key)
    vision |= {"model_type": "qwen2_5_vl", "in_chans": 3, "spatial_patch_size": 14}
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = {"rope_theta": rope["rope_theta"], "rope_scaling": scaling, "vision_config": vision}
    (directory / "config.json").write_text(json.dumps(text | config | flat))
    tensors = {_older(name): tensor for name, tensor in _tensors(source).items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (directory / name).write_bytes((source / name).read_bytes())
    template = (source / "chat_template.jinja").read_text(encoding="utf-8")
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return directory


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(directory / "model.safetensors"))


def _older(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
