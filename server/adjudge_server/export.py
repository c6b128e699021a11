"""`adjudge-server export`: a checkpoint in the original LLaVA-NeXT layout as one that vLLM loads.

That is the layout in which transformers 4 published LLaVA-OneVision. No number is changed: tensors
are copied byte by byte under other names, one after the other, so that memory holds one of them at
a time. Only the head's and the embeddings' padding rows are left out, beyond one for the picture's
placeholder where the tokenizer has none: the original resizes to its tokenizer too, and vLLM would
give them a share of every probability.
"""

import json
import logging
import re
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adjudge_server.critics import checkpoint, llava_original
from adjudge_server.critics.conversation import END, IMAGE, START, SYSTEM
from adjudge_server.families import is_original
from adjudge_server.text_files import read_json

logger = logging.getLogger(__name__)

SHARD_BYTES = 5 * 10**9
CHUNK_BYTES = 1 << 24
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
NAMES = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "vision_tower.vision_model."),
    (r"^model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
    (r"^model\.image_newline$", "image_newline"),
    (r"^model\.(layers|norm|embed_tokens)\.", r"language_model.model.\1."),
    (r"^lm_head\.", "language_model.lm_head."),
)
"""Of tensors, from the original's to those that were published for transformers."""
ROWS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
"""Have a row for each token."""
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
"""Of an added token that says nothing of them."""
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    f"{{{{ '{START}system\\n{SYSTEM}{END}\\n' }}}}"
    "{% endif %}"
    "{% for message in messages %}"
    f"{{{{ '{START}' + message['role'] + '\\n' }}}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}"
    f"{{{{ '{IMAGE}\\n' }}}}"
    "{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    f"{{{{ '{END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
)
"""For people who chat with it; the critic's prompts are token ids."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies, and what it is to be called."""

    name: str
    path: Path
    start: int
    """Of its bytes in the file."""
    dtype: str
    shape: tuple[int, ...]
    num_zero_rows: int = 0
    """To be added at its end; counted in `shape`."""

    @property
    def nbytes(self) -> int:
        """As it is written."""
        return WIDTHS[self.dtype] * _product(self.shape)

    @property
    def num_read(self) -> int:
        """Bytes that come from the file."""
        return self.nbytes - self.num_zero_rows * WIDTHS[self.dtype] * _product(self.shape[1:])


def export(source: Path, target: Path, vision_heads: int | None = None) -> None:
    """Writes the checkpoint `source` to `target`, whole or not at all.

    Raises ValueError for a checkpoint that is not there, not in the original layout, or not sound,
    and where `target` exists.
    """
    if not source.is_dir():
        raise ValueError(f"--model {source}: no such directory")
    raw = read_json(source / "config.json")
    if not is_original(raw):
        raise ValueError(f"--model {source}: it is not in the original LLaVA-NeXT layout")
    if target.exists():
        raise ValueError(f"--to {target}: it exists")
    config = llava_original.to_config(raw, checkpoint.read_shapes(source), vision_heads)
    if not str(config.vision_aspect_ratio).startswith("anyres"):
        raise ValueError("config.json: image_aspect_ratio: vLLM does not pad pictures to one tile")
    definition = checkpoint.tokenizer_definition(source)
    image, size = _place_image(definition)
    definition["added_tokens"] = [FLAGS | token for token in definition["added_tokens"]]
    tensors = [_resized(tensor, size) for tensor in _tensors(source)]
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _write_weights(unfinished, tensors)
    _write_settings(unfinished, source, config, definition, image, size)
    unfinished.rename(target)


def _place_image(definition: dict[str, Any]) -> tuple[int, int]:
    """The placeholder's id and the number of ids, the placeholder's included; it is added where
    the tokenizer has none."""
    added = definition["added_tokens"]
    numbers = [*definition["model"]["vocab"].values(), *(token["id"] for token in added)]
    size = max(numbers) + 1
    for token in added:
        if token["content"] == IMAGE:
            return token["id"], size
    added.append({"id": size, "content": IMAGE, "special": True})
    return size, size + 1


def _tensors(source: Path) -> Iterator[Tensor]:
    for path in checkpoint.weight_files(source):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, told in header.items():
            if name == "__metadata__" or name.endswith("position_ids"):
                continue
            start = 8 + length + told["data_offsets"][0]
            yield Tensor(_renamed(name), path, start, told["dtype"], tuple(told["shape"]))


def _renamed(name: str) -> str:
    for pattern, replacement in NAMES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    raise ValueError(f"checkpoint: unexpected keys: {name}")


def _resized(tensor: Tensor, size: int) -> Tensor:
    if tensor.name not in ROWS:
        return tensor
    found, *rest = tensor.shape
    missing = max(0, size - found)
    if missing > 1:
        raise ValueError(f"{tensor.name} has {found} rows, the tokenizer {size - 1} entries")
    shape = (size, *rest)
    return Tensor(tensor.name, tensor.path, tensor.start, tensor.dtype, shape, missing)


# Weights ------------------------------------------------------------------------------------------


def _write_weights(target: Path, tensors: Sequence[Tensor]) -> None:
    shards = _shards(tensors)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(target / name, shard)
    placed = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
    total = sum(tensor.nbytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    _write_json(target / checkpoint.INDEX, index)


def _shards(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.nbytes for t in shards[-1]) + tensor.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _write_shard(path: Path, tensors: Sequence[Tensor]) -> None:
    """In the format of safetensors: the header's length, the header, the bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            _copy(tensor, file)


def _copy(tensor: Tensor, file: BinaryIO) -> None:
    left = tensor.num_read
    with tensor.path.open("rb") as source:
        source.seek(tensor.start)
        while left:
            chunk = source.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise ValueError(f"{tensor.path.name}: it ends within {tensor.name}")
            file.write(chunk)
            left -= len(chunk)
    file.write(bytes(tensor.nbytes - tensor.num_read))


# Everything else ----------------------------------------------------------------------------------


def _write_settings(
    target: Path, source: Path, config: Any, definition: Mapping[str, Any], image: int, size: int
) -> None:
    raw = config.to_dict()
    raw["architectures"] = ["LlavaOnevisionForConditionalGeneration"]
    raw["image_token_index"] = raw["video_token_index"] = image
    raw["text_config"]["vocab_size"] = size
    raw.pop("transformers_version", None)
    dtype = read_json(source / "config.json").get("torch_dtype")
    if dtype is not None:
        raw["torch_dtype"] = raw["text_config"]["torch_dtype"] = dtype
    _write_json(target / "config.json", raw)
    _write_json(target / "tokenizer.json", definition)
    _write_json(target / "tokenizer_config.json", _tokenizer_config(config))
    for name in ("generation_config.json",):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    _write_processors(target, config)


def _tokenizer_config(config: Any) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": config.text_config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }


def _write_processors(target: Path, config: Any) -> None:
    side = config.vision_config.image_size
    pictures = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }
    _write_json(
        target / "preprocessor_config.json",
        {
            **pictures,
            "do_pad": True,
            "image_grid_pinpoints": config.image_grid_pinpoints,
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
        },
    )
    _write_json(
        target / "video_preprocessor_config.json",
        {**pictures, "video_processor_type": "LlavaOnevisionVideoProcessor"},
    )
    _write_json(
        target / "processor_config.json",
        {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": (side // config.vision_config.patch_size) ** 2,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "vision_aspect_ratio": config.vision_aspect_ratio,
            "image_token": IMAGE,
            "video_token": IMAGE,
        },
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _product(numbers: Sequence[int]) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product
