"""Other weights for a model at work: read beside it, checked to fit, exchanged with its own.

Everything that can go wrong with a checkpoint goes wrong while it is read, into the host's memory
and away from the model's thread. What happens on that thread is a copy from memory, tensor by
tensor into those that the model has, so that the model's device never holds a second model. It is
an exchange: the old weights end up where the new ones were, and exchanging again undoes it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from adjudge_server.critic import CriticCard, Spare, WeightsLost
from adjudge_server.critics import checkpoint
from adjudge_server.critics.chat_template import ChatTemplate
from adjudge_server.critics.qwen2_5_vl_patches import Patching
from adjudge_server.tokenization import TextTokenizer

OF_NO_EFFECT = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "initializer_range",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Keys of a configuration that trainers change and that change no reading. Tensors are converted to
the number type that is served; the padding token counts for scalar heads only, see `facts`."""
TOKENIZERS = ("tokenizer.json", "vocab.json")
SHOWN = 4
LONGEST_VALUE = 60
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the files of a checkpoint say beside its weights. It stays while weights move."""

    auto: Any
    """The class, or auto class, of transformers that loads it."""
    config: PretrainedConfig
    tokenizer: TextTokenizer
    key_mapping: dict[str, str] | None = None
    """How tensors are renamed."""
    chat_template: ChatTemplate | None = None
    end_tokens: frozenset[int] = frozenset()
    repetition_penalty: float = 1.0
    pads: bool = False
    """Whether the padding token has an effect."""
    patching: Patching | None = None
    """How pictures are cut, where another checkpoint of the family might want it otherwise."""

    def load(self, directory: Path, dtype: str) -> Any:
        """See `checkpoint.load_model`."""
        return checkpoint.load_model(
            self.auto, directory, self.config, dtype, key_mapping=self.key_mapping
        )

    def facts(self) -> dict[str, object]:
        """Everything that changes a reading, each by the name of its place."""
        config = dict(_flat("", self.config.to_dict()))
        facts: dict[str, object] = {f"config.json: {key}": config[key] for key in config}
        if self.pads:
            facts["config.json: pad_token_id"] = self.config.pad_token_id
        facts["the tokenizer"] = self.tokenizer.identity
        if self.patching is not None:
            cut = asdict(self.patching)
            facts |= {f"preprocessor_config.json: {key}": cut[key] for key in cut}
        if self.chat_template is not None:
            facts["the chat template"] = self.chat_template.identity
        facts["generation_config.json: eos_token_id"] = sorted(self.end_tokens)
        facts["generation_config.json: repetition_penalty"] = self.repetition_penalty
        return facts


BlueprintReader = Callable[[Path, Blueprint | None], Blueprint]
"""Reads a directory. What is missing there is taken from the other blueprint, if there is one: a
trainer need not write a tokenizer with every step. Raises ValueError."""


def read_tokenizer(directory: Path, known: Blueprint | None) -> TextTokenizer:
    """The directory's; the known one where it has none."""
    if known is not None and not has_tokenizer(directory):
        return known.tokenizer
    return checkpoint.read_tokenizer(directory)


def read_chat_template(
    directory: Path, known: Blueprint | None, tokenizer: TextTokenizer, image: str | None = None
) -> ChatTemplate:
    """The directory's; the known one where it has no tokenizer either. `image`: the special token
    that stands for a picture."""
    if known is not None and known.chat_template is not None and not has_tokenizer(directory):
        return known.chat_template
    return ChatTemplate.read(directory, tokenizer, image)


def read_generation(
    directory: Path, known: Blueprint | None, *ends: int | list[int] | None
) -> tuple[frozenset[int], float]:
    """Tokens that end the critic's turn, `ends` among them, and the repetition penalty."""
    if known is not None and not (directory / "generation_config.json").is_file():
        return known.end_tokens, known.repetition_penalty
    return checkpoint.end_tokens(directory, *ends), checkpoint.repetition_penalty(directory)


def has_tokenizer(directory: Path) -> bool:
    return any((directory / name).is_file() for name in TOKENIZERS)


class Weights:
    """Those that a critic runs on, and how others are put in their place."""

    def __init__(self, model: nn.Module, blueprint: Blueprint, read: BlueprintReader) -> None:
        self._live = _tensors(model)
        self._dtype = str(model.dtype).removeprefix("torch.")
        self._blueprint = blueprint
        self._read = read

    def read(self, directory: Path, card: CriticCard) -> Spare:
        """The weights in a directory, in the host's memory; any thread. `card`: the critic's.

        Raises ValueError, by name, for whatever does not fit the model at work, for numbers that
        are not finite, and for files that change meanwhile.
        """
        before = _stamps(directory)
        found = self._read(directory, self._blueprint)
        _check_same(self._blueprint.facts(), found.facts())
        # In memory of their own: mapped files would change with the next step that is written.
        tensors = _taken(checkpoint.place(found.load(directory, self._dtype), "cpu"))
        _check_fit(self._live, tensors)
        fingerprint = checkpoint.fingerprint(directory)
        if _stamps(directory) != before:
            raise ValueError("its files changed while they were read: are they still written?")
        return Spare(replace(card, revision=directory.name, fingerprint=fingerprint), tensors)

    @torch.no_grad()
    def exchange(self, spare: Spare) -> None:
        """See `critic.Critic.exchange`."""
        exchanged: list[str] = []
        held: torch.Tensor | None = None
        try:
            for name, live in self._live.items():
                held = live.to("cpu", copy=True)
                live.copy_(spare.tensors[name])
                spare.tensors[name].copy_(held)
                exchanged.append(name)
                held = None
            _wait_for(self._live)
        except Exception:
            self._put_back(spare, exchanged, held)
            raise

    def _put_back(self, spare: Spare, exchanged: list[str], held: torch.Tensor | None) -> None:
        """`held`: what the tensor after those held before, if it may have changed."""
        names = list(self._live)
        try:
            if held is not None:
                self._live[names[len(exchanged)]].copy_(held)
            for name in exchanged:
                self._live[name].copy_(spare.tensors[name])
            _wait_for(self._live)
        except Exception as error:
            raise WeightsLost("the weights are neither the old nor the new ones") from error


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint decides; tied weights once. The rest is computed from the
    configuration."""
    written = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in written}
    return {**dict(model.named_parameters()), **buffers}


def _taken(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a model that is left without any: models are in reference cycles, and would
    keep them until Python happens to look for those."""
    tensors = {name: tensor.detach() for name, tensor in _tensors(model).items()}
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.new_empty(0)
    return tensors


def _check_fit(live: Tensors, new: Tensors) -> None:
    """Raises ValueError for tensors that are not those of the model at work. (Tied weights may have
    parted, or the other way round; all else is refused earlier.)"""
    if differing := sorted(live.keys() ^ new.keys()):
        raise ValueError(f"not tied to each other as in the weights served: {_listed(differing)}")
    for name, tensor in new.items():
        if tensor.shape != live[name].shape or tensor.dtype != live[name].dtype:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype},"
                f" not {tuple(live[name].shape)} {live[name].dtype}"
            )
    broken = [name for name, tensor in new.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"numbers that are not finite: {_listed(broken)}")


def _check_same(known: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Raises ValueError for facts that differ, by name."""
    differing = [
        name for name in sorted(known.keys() | found.keys()) if known.get(name) != found.get(name)
    ]
    if differing:
        told = [_difference(name, known.get(name), found.get(name)) for name in differing]
        raise ValueError(f"not the model that is served: {_listed(told)}")


def _difference(name: str, known: object, found: object) -> str:
    values = f"{found!r}, not {known!r}"
    return f"{name} is {values}" if len(values) <= LONGEST_VALUE else f"{name} differs"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return "; ".join(names[:SHOWN]) + more


def _flat(path: str, value: Any) -> Iterator[tuple[str, object]]:
    """Leaves of nested dictionaries, by their dotted path."""
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        if key not in OF_NO_EFFECT:
            yield from _flat(f"{path}.{key}" if path else str(key), inner)


def _stamps(directory: Path) -> dict[str, tuple[int, int, int]]:
    """What changes when a file of the directory is written."""
    stats = {path.name: path.stat() for path in directory.iterdir() if path.is_file()}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def _wait_for(tensors: Tensors) -> None:
    """Until copies to another device are done, so that their errors come out here."""
    for device in {tensor.device for tensor in tensors.values()}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
