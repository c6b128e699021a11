"""A decoder-only language model without its head: the part that all families share.

The modules are those of transformers; how they are put together is ours, because the prefix of a
group runs once and its candidates run as one packed row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from adjudge_server.critics import packed_attention
from adjudge_server.critics.packed_attention import Blocks
from adjudge_server.critics.packing import PackedRow, Segment, pack
from adjudge_server.critics.preparing import PreparedPrompt

Array = NDArray[Any]
Embed = Callable[[PreparedPrompt, int], torch.Tensor]
"""(n, hidden): the embeddings of a prompt's first n tokens, pictures in their slots."""


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Prompts of a batch that share their prefix, and where they stand in the batch."""

    indices: list[int]
    items: list[PreparedPrompt]

    @property
    def prefix(self) -> int:
        return min(item.shared_tokens for item in self.items)


@dataclass(frozen=True, slots=True, eq=False)
class ReadRow:
    """Prompts that ran as one packed row."""

    indices: list[int]
    """Where they stand in the batch."""
    items: list[PreparedPrompt]
    row: PackedRow
    hidden: torch.Tensor
    """(N, hidden) of the row's tokens."""
    computed_tokens: list[int]
    """On each item's account; the prefix is on that of the group's first."""


class Decoder:
    """A language model without its head, run over prompts that share their beginnings."""

    def __init__(self, language: PreTrainedModel) -> None:
        self._language = language
        self._embedding = language.get_input_embeddings()
        weight: torch.Tensor = self._embedding.weight
        self.device = weight.device
        self.dtype = weight.dtype
        self.in_blocks = self.device.type == "cpu"
        """Whether packed rows are attended to in blocks. False is slower, and what tests compare
        with."""
        language.set_attn_implementation(packed_attention.NAME)

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(n, hidden) of token ids; what stands in an IMAGE_SLOT is for others to fill."""
        ids = torch.tensor(token_ids, device=self.device)
        embedded: torch.Tensor = self._embedding(ids.clamp(min=0))
        return embedded

    def embed_text(self, item: PreparedPrompt, count: int) -> torch.Tensor:
        """See Embed; of prompts without pictures."""
        return self.embed(item.token_ids[:count])

    def run(self, batch: Sequence[PreparedPrompt], embed: Embed) -> Iterator[ReadRow]:
        """Every prompt of the batch, in packed rows."""
        for group in _groups(batch):
            prefix = group.prefix
            cache = DynamicCache(config=self._language.config)
            if prefix:
                cache, _ = self.begin(group.items[0], prefix, embed)
            for number, chosen in enumerate(_rows(group.items)):
                items = [group.items[i] for i in chosen]
                computed = [item.shared_tokens - prefix + item.own_tokens for item in items]
                computed[0] += 0 if number else prefix
                row, hidden = self._run_row(items, prefix, cache)
                yield ReadRow([group.indices[i] for i in chosen], items, row, hidden, computed)

    def _run_row(
        self, items: Sequence[PreparedPrompt], prefix: int, cache: DynamicCache
    ) -> tuple[PackedRow, torch.Tensor]:
        """One pass; leaves the cache as it was."""
        row = pack([Segment(item.token_ids[prefix:], item.tree) for item in items], prefix)
        hidden: torch.Tensor = self._language(
            inputs_embeds=self._embedding(self.tensor(row.token_ids))[None],
            position_ids=self.tensor(row.positions)[None],
            cache=cache,
            **self._attention(row),
        ).last_hidden_state[0]
        cache.crop(-len(row.token_ids))
        return row, hidden

    def begin(
        self, item: PreparedPrompt, count: int, embed: Embed
    ) -> tuple[DynamicCache, torch.Tensor]:
        """Keys and values of a prompt's first `count` tokens, and (hidden,) after the last one."""
        cache = DynamicCache(config=self._language.config)
        embedded = embed(item, count)[None]
        outputs = self._language(inputs_embeds=embedded, cache=cache, use_cache=True)
        return cache, outputs.last_hidden_state[0, -1]

    def step(self, token: int, cache: DynamicCache) -> torch.Tensor:
        """(hidden,) after one more token, which the cache keeps."""
        hidden: torch.Tensor = self._language(
            inputs_embeds=self._embedding(torch.tensor([[token]], device=self.device)),
            cache=cache,
            use_cache=True,
        ).last_hidden_state[0, -1]
        return hidden

    def _attention(self, row: PackedRow) -> dict[str, Any]:
        """How the language model is told who sees whom: in blocks, or with one dense mask."""
        if self.in_blocks:
            # A mask of four dimensions, never looked at, stops transformers from making its own.
            unused = torch.empty(1, 1, 1, 1, dtype=self.dtype)
            return {"attention_mask": unused, "blocks": Blocks.of(row, self.dtype)}
        # Additive, because attention would turn a boolean mask into this in every layer.
        mask = torch.zeros(row.mask.shape, dtype=self.dtype, device=self.device)
        mask = mask.masked_fill_(~self.tensor(row.mask), float("-inf"))
        return {"attention_mask": mask[None, None]}

    def tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def _rows(items: Sequence[PreparedPrompt]) -> list[list[int]]:
    """Indices of the items of each packed row, such that padding a row's segments to its longest at
    most doubles them: one long candidate must not make hundreds of short ones as long."""
    rows: list[list[int]] = [[]]
    total = 0
    for index in sorted(range(len(items)), key=lambda i: items[i].own_tokens):
        length = items[index].own_tokens
        if rows[-1] and (len(rows[-1]) + 1) * length > 2 * (total + length):
            rows.append([])
            total = 0
        rows[-1].append(index)
        total += length
    return rows


def _groups(batch: Sequence[PreparedPrompt]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for index, item in enumerate(batch):
        group = groups.setdefault(item.group, _Group([], []))
        group.indices.append(index)
        group.items.append(item)
    return list(groups.values())
