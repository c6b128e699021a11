"""What all families read from a checkpoint directory. Never asks a hub."""

import hashlib
import json
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig, Qwen2Tokenizer
from transformers.utils import logging as transformers_logging

from adjudge_server.text_files import read_json
from adjudge_server.tokenization import TextTokenizer

transformers_logging.disable_progress_bar()  # a server's log is not a terminal
transformers_logging.set_verbosity_error()  # what it warns of when loading is refused here

INDEX = "model.safetensors.index.json"
NUMBERS = ("F64", "F32", "F16", "BF16")
"""Types of tensors, as safetensors names them, whose numbers are what they say."""
Shapes = Mapping[str, tuple[int, ...]]
M = TypeVar("M", bound=nn.Module)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that make up a checkpoint. Raises ValueError where some are missing."""
    single = directory / "model.safetensors"
    index = _weight_map(directory)
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
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{INDEX}: not in the directory: {outside[0]}")
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise ValueError(f"missing shards: {', '.join(missing)}")
    return [directory / name for name in names]


def _weight_map(directory: Path) -> dict[str, str]:
    """File names by tensor, as the index of shards has them; empty where there is none."""
    index = read_json(directory / INDEX)
    if not index:
        return {}
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise ValueError(f"{INDEX}: weight_map is no mapping from tensors to files")
    if not isinstance(index.get("metadata"), dict):
        raise ValueError(f"{INDEX}: metadata is missing")  # transformers cannot do without
    return placed


def read_shapes(directory: Path) -> Shapes:
    """Shapes of all tensors, by name, from the headers alone. Raises ValueError for a file that is
    broken or cut short, for tensors of which it cannot be said where they lie, and for numbers that
    are no plain ones."""
    placed = _weight_map(directory)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(directory):
        try:
            found = _read_header(path)
        except SafetensorError as error:
            raise ValueError(f"{path.name}: {error}") from error
        # transformers would take the last one, whatever the index says.
        if twice := sorted(found.keys() & shapes):
            raise ValueError(f"{path.name}: {twice[0]} lies in another shard too")
        if lost := sorted(name for name in found if placed.get(name, path.name) != path.name):
            raise ValueError(f"{INDEX}: {lost[0]} is in {path.name}, not in {placed[lost[0]]}")
        shapes |= found
    return shapes


def _read_header(path: Path) -> Shapes:
    shapes = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - a method of its own, not a mapping's
            tensor = file.get_slice(name)
            # Older models number their positions in the checkpoint, which nothing reads.
            if tensor.get_dtype() not in NUMBERS and not name.endswith("position_ids"):
                raise ValueError(
                    f"{path.name}: {name} is of type {tensor.get_dtype()}: quantised weights are"
                    " not implemented"
                )
            shapes[name] = tuple(tensor.get_shape())
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
    that are missing, unexpected or of another shape, for broken files, and for weights that are
    quantised or said to be tied and are not."""
    _check_plain(read_json(directory / "config.json"))
    _check_tied(directory, config, read_shapes(directory))
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


def _check_plain(raw: Mapping[str, Any]) -> None:
    for within, part in (("", raw), ("text_config.", raw.get("text_config") or {})):
        for key in ("quantization_config", "compression_config"):
            if isinstance(part, dict) and part.get(key):
                raise ValueError(
                    f"config.json: {within}{key}: quantised weights are not implemented"
                )


def _check_tied(directory: Path, config: PretrainedConfig, shapes: Shapes) -> None:
    """Raises ValueError for a head of its own in a checkpoint that says it has none: older versions
    of transformers take the embeddings for it, newer ones the head."""
    if not config.tie_word_embeddings:
        return
    pair = [
        [n for n in shapes if n.endswith(end)] for end in ("embed_tokens.weight", "lm_head.weight")
    ]
    if any(len(names) != 1 for names in pair):
        return
    embeddings, head = (_read_tensor(directory, name) for (name,) in pair)
    if not torch.equal(embeddings, head):
        raise ValueError(
            f"config.json: tie_word_embeddings is true, but {pair[1][0]} is not equal to"
            f" {pair[0][0]}: which of them is the head?"
        )


def _read_tensor(directory: Path, name: str) -> torch.Tensor:
    for path in weight_files(directory):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor
    raise ValueError(f"checkpoint: missing keys: {name}")


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
    """See `tokenizer_definition`."""
    return TextTokenizer(json.dumps(tokenizer_definition(directory)))


def tokenizer_definition(directory: Path) -> dict[str, Any]:
    """tokenizer.json, or, where there is none, the same made of Qwen2's vocab.json and merges.txt.

    Tokens that only added_tokens.json knows are added tokens too: the model has rows for them.
    """
    if definition := read_json(directory / "tokenizer.json"):
        known = {token["content"] for token in definition["added_tokens"]}
        for content, token_id in read_json(directory / "added_tokens.json").items():
            if content not in known:
                definition["added_tokens"].append({"content": content, "id": token_id})
        return definition
    if not (directory / "vocab.json").is_file() or not (directory / "merges.txt").is_file():
        raise ValueError("no tokenizer.json, and no vocab.json with merges.txt")
    slow = Qwen2Tokenizer.from_pretrained(directory, local_files_only=True)
    definition = json.loads(slow.backend_tokenizer.to_str())
    assert isinstance(definition, dict)
    return definition


def check_rows(directory: Path, tokenizer: TextTokenizer, rows: int) -> None:
    """Raises ValueError, naming them, for tokens that a model of so many embeddings has none of."""
    model = read_json(directory / "tokenizer.json").get("model", {})
    vocabulary = model.get("vocab") or read_json(directory / "vocab.json")
    plain = (
        vocabulary.items()
        if isinstance(vocabulary, dict)
        else ((text, number) for number, (text, _) in enumerate(vocabulary))
    )
    if beyond := {t: i for t, i in (*plain, *tokenizer.added.items()) if i >= rows}:
        shown = ", ".join(f"{text!r} ({number})" for text, number in list(beyond.items())[:4])
        more = f" and {len(beyond) - 4} more" if len(beyond) > 4 else ""
        raise ValueError(
            f"the tokenizer has ids beyond the model's {rows} embeddings: {shown}{more}"
        )


def end_tokens(directory: Path, *more: int | list[int] | None) -> frozenset[int]:
    """Ids that end the critic's turn, as the configuration files name them."""
    generation = read_json(directory / "generation_config.json")
    ids: set[int] = set()
    for value in (generation.get("eos_token_id"), *more):
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    if strange := [value for value in ids if not isinstance(value, int)]:
        raise ValueError(f"generation_config.json: eos_token_id has {strange[0]!r}, which is no id")
    return frozenset(ids)


def repetition_penalty(directory: Path) -> float:
    """Of generation_config.json; 1, which is none, where it does not say. Raises ValueError for
    what divides no logit."""
    penalty = read_json(directory / "generation_config.json").get("repetition_penalty")
    if penalty is None:
        return 1.0
    if not isinstance(penalty, int | float) or not 0 < penalty < inf:
        raise ValueError(f"generation_config.json: repetition_penalty is {penalty!r}")
    return float(penalty)


def fingerprint(directory: Path) -> str:
    """Hex SHA-256 over configuration, tokenizer, chat template, preprocessing and all weights:
    every file that changes what is computed.

    All of them, though 15 GB take ten seconds: checkpoints of one training run differ anywhere.
    """
    whole = hashlib.sha256()
    tokenizer = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
    chat = ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json")
    seen = ("chat_template.json", "preprocessor_config.json", "processor_config.json")
    configured = ("config.json", "generation_config.json")
    named = [directory / name for name in (*configured, *tokenizer, *chat, *seen)]
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
