"""Models with random weights: in memory for what is measured in process, on disk for servers."""

import json
from importlib.resources import files
from pathlib import Path

import torch
from benchmarks.engine.shapes import Shape, configuration
from benchmarks.engine.tokenizer import ADDED, tokenizer_json
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlavaOnevisionForConditionalGeneration

from adjudge_server.caches import DEFAULT, CacheBytes
from adjudge_server.critic import CriticCard
from adjudge_server.critics.anyres import Geometry
from adjudge_server.critics.conversation import QWEN_1_5
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.llava_tiles import Tiler
from adjudge_server.critics.llava_vision import LlavaVision
from adjudge_server.critics.preparing import Preparer
from adjudge_server.template_files import parse
from adjudge_server.templates import Template
from adjudge_server.tokenization import TextTokenizer

LOGITS = 2.3
"""Their standard deviation. As initialised, every answer is about as probable as any other, and
nothing could go wrong."""
TEMPLATES = files("benchmarks.engine") / "templates.toml"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def templates() -> tuple[Template, ...]:
    return parse(TEMPLATES.read_text(encoding="utf-8")).templates


def added_tokens(shape: Shape) -> dict[str, int]:
    tokens = json.loads(tokenizer_json(shape.vocabulary))["added_tokens"]
    return {token["content"]: token["id"] for token in tokens}


def build(
    shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LlavaOnevisionForConditionalGeneration:
    """The same model for the same arguments."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            config = configuration(shape, added_tokens(shape))
            config._attn_implementation = "sdpa"
            model = LlavaOnevisionForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    torch.nn.init.normal_(model.lm_head.weight, std=LOGITS / shape.hidden**0.5)
    return model.eval()


def critic_of(
    model: LlavaOnevisionForConditionalGeneration, shape: Shape, caches: CacheBytes = DEFAULT
) -> LlavaOnevisionCritic:
    """A critic around a model in memory, which is changed: its attention is the engine's."""
    tokenizer = TextTokenizer(tokenizer_json(shape.vocabulary))
    card = CriticCard(
        name="generated",
        revision="generated",
        fingerprint="",
        family="llava_onevision",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        templates=templates(),
        sees_images=True,
        max_input_tokens=model.config.text_config.max_position_embeddings,
    )
    grids = tuple((width, height) for height, width in model.config.image_grid_pinpoints)
    vision = LlavaVision(model.model, caches.features)
    geometry = Geometry(shape.tile, shape.patch, grids)
    tiler = Tiler(geometry, single="anyres", several="anyres")
    preparer = Preparer(
        tokenizer, QWEN_1_5, tiler, card.templates, card.max_input_tokens, vision.knows
    )
    ends = frozenset({tokenizer.added[QWEN_1_5.end]})
    return LlavaOnevisionCritic(model, tokenizer, preparer, card, ends, 1.0, vision, caches)


def write(directory: Path, shape: Shape) -> Path:
    """The model of `build` on disk, with what transformers' processor and vLLM want beside it."""
    model = build(shape)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float32
    model.config.save_pretrained(directory)
    weights = {_published(name): t.contiguous() for name, t in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    definition = tokenizer_json(shape.vocabulary)
    Tokenizer.from_str(definition).save(str(directory / "tokenizer.json"))
    sides = model.config.image_grid_pinpoints
    normalised = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True}
    _write_json(directory / "tokenizer_config.json", _tokenizer_config())
    _write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
            "image_grid_pinpoints": sides,
            "size": {"height": shape.tile, "width": shape.tile},
            **normalised,
        },
    )
    _write_json(
        directory / "video_preprocessor_config.json",
        {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "size": {"height": shape.tile, "width": shape.tile},
            **normalised,
        },
    )
    _write_json(
        directory / "processor_config.json",
        {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": (shape.tile // shape.patch) ** 2,
            "vision_feature_select_strategy": "full",
            "image_token": "<image>",
            "video_token": "<video>",
        },
    )
    return directory


def _published(name: str) -> str:
    """Tensor names as published checkpoints have them, which vLLM and transformers both load."""
    for ours, theirs in (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ADDED,
        "model_max_length": 32768,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
