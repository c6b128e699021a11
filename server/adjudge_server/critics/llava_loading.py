"""Loads a LLaVA-OneVision checkpoint directory in the Hugging Face layout. Never asks a hub."""

import hashlib
from functools import partial
from pathlib import Path

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.utils import logging as transformers_logging

from adjudge_server.critic import CriticCard
from adjudge_server.critics.anyres import Geometry
from adjudge_server.critics.conversation import QWEN_1_5
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.llava_tiles import tiled
from adjudge_server.critics.preparing import Preparer
from adjudge_server.templates import builtin_templates
from adjudge_server.tokenization import TextTokenizer

transformers_logging.disable_progress_bar()  # a server's log is not a terminal


def load(
    directory: Path, *, name: str, device: str, dtype: str, max_input_tokens: int
) -> LlavaOnevisionCritic:
    """Builds the critic that lies in a directory.

    `dtype` "auto" is the checkpoint's own on a GPU and float32 on a CPU. Raises ValueError, with
    their names, for tensors that are missing, unexpected or of another shape, and for checkpoints
    that want features this code does not compute.
    """
    config = LlavaOnevisionConfig.from_pretrained(directory, local_files_only=True)
    _check(config)
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "auto"
    model, report = LlavaOnevisionForConditionalGeneration.from_pretrained(
        directory,
        local_files_only=True,
        dtype=dtype,
        attn_implementation="sdpa",  # eager attention overflows Qwen2 in half precision
        output_loading_info=True,
    )
    _check_report(report)
    model = model.to(device).eval()
    tokenizer = TextTokenizer.from_file(directory / "tokenizer.json")
    vision, text = config.vision_config, config.text_config
    card = CriticCard(
        name=name,
        revision=directory.name,
        fingerprint=_fingerprint(directory),
        family="llava_onevision",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        templates=builtin_templates(),
        sees_images=True,
        max_input_tokens=min(max_input_tokens, text.max_position_embeddings),
    )
    geometry = Geometry(
        tile=vision.image_size,
        patch=vision.patch_size,
        # Hugging Face writes (height, width).
        grids=tuple((width, height) for height, width in config.image_grid_pinpoints),
    )
    tile = partial(tiled, geometry=geometry)
    preparer = Preparer(tokenizer, QWEN_1_5, tile, card.templates, card.max_input_tokens)
    ends = {tokenizer.added[QWEN_1_5.end], *_as_list(text.eos_token_id)}
    return LlavaOnevisionCritic(model, tokenizer, preparer, card, frozenset(ends))


def _check(config: LlavaOnevisionConfig) -> None:
    expected = {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    }
    for key, value in expected.items():
        if (found := getattr(config, key)) != value:
            raise ValueError(f"config.json: {key} is {found!r}, only {value!r} is implemented")
    if config.text_config.use_sliding_window:
        raise ValueError("config.json: use_sliding_window is true, which is not implemented")


def _check_report(report: dict[str, set[str]]) -> None:
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if names := sorted(map(str, report.get(problem, ()))):
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
            raise ValueError(f"checkpoint: {problem.replace('_', ' ')}: {shown}")


def _fingerprint(directory: Path) -> str:
    """Hex SHA-256 over configuration, tokenizer and all weights.

    All of them, though 15 GB take ten seconds: checkpoints of one training run differ anywhere.
    """
    whole = hashlib.sha256()
    files = [directory / "config.json", directory / "tokenizer.json"]
    for path in [*files, *sorted(directory.glob("*.safetensors"))]:
        with path.open("rb") as file:
            whole.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else value


def set_threads(threads: int) -> None:
    """CPU threads of one forward pass."""
    torch.set_num_threads(threads)


def pick_device() -> str:
    """The first GPU, or the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"
