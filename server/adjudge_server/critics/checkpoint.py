"""What all families read from a checkpoint directory. Never asks a hub."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig, Qwen2Tokenizer
from transformers.utils import logging as transformers_logging

from adjudge_server.tokenization import TextTokenizer

transformers_logging.disable_progress_bar()  # a server's log is not a terminal
transformers_logging.set_verbosity_error()  # what it warns of when loading is refused here

Shapes = Mapping[str, tuple[int, ...]]
M = TypeVar("M", bound=nn.Module)


def read_json(path: Path) -> dict[str, Any]:
    """A file's object; empty where there is no such file. Raises ValueError for other contents."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name}: not a JSON object")
    return value


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that make up a checkpoint. Raises ValueError where some are missing."""
    single = directory / "model.safetensors"
    index = read_json(directory / "model.safetensors.index.json").get("weight_map")
    if index and single.is_file() and single.name not in index.values():
        raise ValueError(
            f"both {single.name} and the index of other shards: which are the weights?"
        )
    if index:
        names = sorted(set(index.values()))
    elif single.is_file():
        names = [single.name]
    else:
        found = ", ".join(sorted(p.name for p in directory.glob("*.bin"))) or "none"
        raise ValueError(f"no model.safetensors and no index of shards (pickled weights: {found})")
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise ValueError(f"missing shards: {', '.join(missing)}")
    return [directory / name for name in names]


def read_shapes(directory: Path) -> Shapes:
    """Shapes of all tensors, by name, from the headers alone. Raises ValueError for a file that is
    broken or cut short."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(directory):
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()  # a method of its own, not a mapping's
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise ValueError(f"{path.name}: {error}") from error
    return shapes


def load_model(
    auto: Any,
    directory: Path,
    config: PretrainedConfig,
    dtype: str,
    *,
    key_mapping: dict[str, str] | None = None,
) -> Any:
    """A model of transformers, of a class or an auto class; see `place`. Runs no code of the
    checkpoint's. `key_mapping` renames tensors. Raises ValueError, with their names, for tensors
    that are missing, unexpected or of another shape, and for broken files."""
    read_shapes(directory)  # refuses broken files by name
    model, report = auto.from_pretrained(
        directory,
        config=config,
        key_mapping=key_mapping,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=dtype,
        attn_implementation="sdpa",  # eager attention overflows Qwen2 in half precision
        ignore_mismatched_sizes=True,  # so that the report names them; it is refused all the same
        output_loading_info=True,
    )
    check_report(report)
    return model


def check_report(report: Mapping[str, Any]) -> None:
    """Raises ValueError, with their names, for tensors missing, unexpected or of another shape;
    `report` is the loading info of transformers."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if names := sorted(map(_told, report.get(problem, ()))):
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
            raise ValueError(f"checkpoint: {problem.replace('_', ' ')}: {shown}")


def _told(problem: Any) -> str:
    """A tensor's name, or its name and two shapes."""
    if isinstance(problem, str):
        return problem
    name, found, wanted = problem
    return f"{name} is {tuple(found)}, not {tuple(wanted)}"


def read_tokenizer(directory: Path) -> TextTokenizer:
    """From tokenizer.json, or, where there is none, from Qwen2's vocab.json and merges.txt.

    Tokens that only added_tokens.json knows are added tokens too: the model has rows for them.
    """
    if definition := read_json(directory / "tokenizer.json"):
        known = {token["content"] for token in definition["added_tokens"]}
        for content, token_id in read_json(directory / "added_tokens.json").items():
            if content not in known:
                definition["added_tokens"].append({"content": content, "id": token_id})
        return TextTokenizer(json.dumps(definition))
    if not (directory / "vocab.json").is_file() or not (directory / "merges.txt").is_file():
        raise ValueError("no tokenizer.json, and no vocab.json with merges.txt")
    slow = Qwen2Tokenizer.from_pretrained(directory, local_files_only=True)
    return TextTokenizer(slow.backend_tokenizer.to_str())


def end_tokens(directory: Path, *more: int | list[int] | None) -> frozenset[int]:
    """Ids that end the critic's turn, as the configuration files name them."""
    generation = read_json(directory / "generation_config.json")
    ids: set[int] = set()
    for value in (generation.get("eos_token_id"), *more):
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ids)


def repetition_penalty(directory: Path) -> float:
    """Of generation_config.json; 1, which is none, where it does not say."""
    return float(read_json(directory / "generation_config.json").get("repetition_penalty") or 1.0)


def fingerprint(directory: Path) -> str:
    """Hex SHA-256 over configuration, tokenizer, chat template and all weights.

    All of them, though 15 GB take ten seconds: checkpoints of one training run differ anywhere.
    """
    whole = hashlib.sha256()
    tokenizer = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
    chat = ("chat_template.jinja", "tokenizer_config.json")
    named = [directory / name for name in ("config.json", *tokenizer, *chat)]
    for path in [*filter(Path.is_file, named), *weight_files(directory)]:
        with path.open("rb") as file:
            whole.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()


def place(model: M, device: str) -> M:
    """The model on a device, in memory of its own, one tensor at a time.

    On a CPU its tensors may lie in the mapped file, where they would change with it: a trainer that
    overwrites the checkpoint would change the critic without a word, and one that cuts it would
    kill the server.
    """
    if torch.device(device).type == "cpu":
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    return model.to(device).eval()


def number_type(dtype: str, device: str) -> str:
    """ "auto" is the checkpoint's own on a GPU and float32 on a CPU, where halves are slow."""
    on_cpu = torch.device(device).type == "cpu"
    return "float32" if dtype == "auto" and on_cpu else dtype


def set_threads(threads: int) -> None:
    """CPU threads of one forward pass."""
    torch.set_num_threads(threads)


def pick_device(device: str) -> str:
    """ "auto" is the first GPU, or the CPU. Raises ValueError for what is no device."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise ValueError(f"--device {device}: {error}") from error
