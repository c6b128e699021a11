"""Candidates from a decoder-only `transformers` model of this process, with or without pictures."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adjudge_reranker.content import Message
from adjudge_reranker.generation.chat import template_messages
from adjudge_reranker.generation.samples import Finish, Order, Sample

if TYPE_CHECKING:
    import torch


class TransformersPolicy:
    """Samples `chunk_size` answers at a time with `model.generate`.

    policy = TransformersPolicy(model, processor, chunk_size=4, max_new_tokens=256, temperature=0.8)

    Draws from torch's own random generator, in the caller's thread, and nothing else draws from it:
    after `torch.manual_seed` the answers are those that `generate` gives chunk by chunk. When the
    choice is made in the middle of a chunk, it ends at the next token, and answers that were
    complete by then still count. An answer is complete if it has an end-of-sequence token or one of
    `stop_strings`; whatever else ended it, it is `Finish.LENGTH`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        chunk_size: int = 4,
        template_options: Mapping[str, Any] | None = None,
        **generate_options: Any,
    ) -> None:
        """`processor` is that of the model, or its tokenizer if it sees no pictures.

        The prompt goes through its chat template, with `template_options`; without a template,
        texts are joined as they stand. `generate_options` are those of `generate`; `do_sample` is
        True unless they say otherwise.

        Raises ValueError if `chunk_size` is less than 1, or if the options say something that
        belongs to this class, such as `num_return_sequences`.
        """
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        for name in ("num_return_sequences", "return_dict_in_generate", "streamer"):
            if name in generate_options:
                raise ValueError(f"{name} cannot be chosen: the policy reads what generate returns")
        self._model = model
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._chunk_size = chunk_size
        self._template_options = dict(template_options or {})
        self._options = {"do_sample": True, **generate_options}
        self._criteria = list(self._options.pop("stopping_criteria", None) or ())
        if "stop_strings" in self._options:
            self._options.setdefault("tokenizer", self._tokenizer)

    def samples(
        self, prompt: Sequence[Message], order: Order
    ) -> Generator[list[Sample[str]], None, None]:
        """Raises ValueError for a picture that the processor cannot take, OSError for one that is
        none, and what the processor and the model raise."""
        from transformers import StoppingCriteriaList

        inputs = self._encoded(prompt)
        num_prompt_tokens = inputs["input_ids"].shape[1]
        while num_wanted := order.num_wanted:
            indices = order.begin(min(self._chunk_size, num_wanted))
            watch = _Watch(order)
            sequences = self._model.generate(
                **inputs,
                **self._options,
                num_return_sequences=len(indices),
                stopping_criteria=StoppingCriteriaList([*self._criteria, watch]),
            )
            rows = sequences[:, num_prompt_tokens:].tolist()  # (chunk, new tokens)
            read = (self._read(i, row) for i, row in zip(indices, rows, strict=True))
            # An unfinished answer means something only if it was the limit that cut it.
            yield [s for s in read if s.finish is Finish.COMPLETE or not watch.has_fired]

    def _encoded(self, prompt: Sequence[Message]) -> "dict[str, torch.Tensor]":
        sees = hasattr(self._processor, "image_processor")
        messages = template_messages(prompt, has_pictures=sees)
        if getattr(self._processor, "chat_template", None):
            encoded = self._processor.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **self._template_options,
            )
        else:
            texts = [
                message["content"] for message in template_messages(prompt, has_pictures=False)
            ]
            encoded = self._tokenizer("".join(texts), return_tensors="pt")
        if not sees:
            # Tokenizers give it unasked, and models without segments refuse it.
            encoded.pop("token_type_ids", None)
        device, dtype = self._model.device, self._model.dtype
        return {
            name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
            for name, tensor in encoded.items()
        }

    def _read(self, index: int, row: list[int]) -> Sample[str]:
        ends = [place for place, token in enumerate(row) if token in self._end_tokens]
        if ends:
            return Sample(index, self._decoded(row[: ends[0]]), Finish.COMPLETE)
        padding = self._tokenizer.pad_token_id
        while row and row[-1] == padding:
            row.pop()
        text = self._decoded(row)
        stopped = any(stop in text for stop in _several(self._options.get("stop_strings")))
        return Sample(index, text, Finish.COMPLETE if stopped else Finish.LENGTH)

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    @property
    def _end_tokens(self) -> set[int]:
        config = self._options.get("generation_config") or self._model.generation_config
        for end in (self._options.get("eos_token_id"), config.eos_token_id):
            if end is not None:
                return set(_several(end))
        return set(_several(self._tokenizer.eos_token_id))


class _Watch:
    """A stopping criterion of `generate`: ends all rows once the choice is made."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.has_fired = False

    def __call__(
        self, input_ids: "torch.Tensor", scores: Any, **options: Any
    ) -> "torch.Tensor":  # (chunk,)
        import torch

        self.has_fired = self.has_fired or self._order.is_over
        return torch.full((input_ids.shape[0],), self.has_fired, device=input_ids.device)


def _several(value: Any) -> Iterable[Any]:
    """What options give as one, as several, or not at all."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple | set) else (value,)
