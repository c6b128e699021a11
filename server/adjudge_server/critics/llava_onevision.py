"""LLaVA-OneVision critics in the Hugging Face layout, LLaVA-Critic's architecture among them.

The modules are those of transformers; how they are put together is ours, because the prefix of a
group runs once, its candidates run as one packed row, and logits are computed only where an answer
is read.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache, LlavaOnevisionForConditionalGeneration

from adjudge_server.answers import Floats
from adjudge_server.critic import CriticCard, Query, Reading, Written
from adjudge_server.critics import packed_attention
from adjudge_server.critics.llava_prepare import (
    IMAGE_SLOT,
    LlavaPrepared,
    Preparer,
    TiledPicture,
)
from adjudge_server.critics.packed_attention import Blocks
from adjudge_server.critics.packing import PackedRow, Segment, pack
from adjudge_server.errors import InputTooLong
from adjudge_server.tokenization import TextTokenizer

Array = NDArray[Any]
Features = Mapping[str, torch.Tensor]
"""(tokens, hidden) of each picture, by digest."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What the decoder shows for a character whose bytes have not all been generated yet."""


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Queries of a batch that share their prefix, and where they stand in the batch."""

    indices: list[int]
    items: list[LlavaPrepared]

    @property
    def prefix(self) -> int:
        return min(item.shared_tokens for item in self.items)


class LlavaOnevisionCritic:
    """See `critic.Critic`. Built by `llava_loading.load`."""

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        tokenizer: TextTokenizer,
        preparer: Preparer,
        card: CriticCard,
        end_tokens: frozenset[int],
    ) -> None:
        self.card = card
        self._tokenizer = tokenizer
        self._preparer = preparer
        self._end_tokens = end_tokens
        self._vision = model.model.vision_tower
        self._projector = model.model.multi_modal_projector
        self._newline: torch.Tensor = model.model.image_newline
        self._language = model.model.language_model
        self._head = model.lm_head
        self._embedding = model.get_input_embeddings()
        self._device = self._newline.device
        self._dtype = self._newline.dtype
        self.in_blocks = self._device.type == "cpu"
        """Whether packed rows are attended to in blocks. False is slower, and what tests compare
        with."""
        self._language.set_attn_implementation(packed_attention.NAME)

    def prepare(self, queries: Sequence[Query]) -> list[LlavaPrepared | InputTooLong]:
        return self._preparer.prepare(queries)

    def after(self, item: LlavaPrepared, text: str) -> LlavaPrepared:
        return self._preparer.after(item, text)

    @torch.inference_mode()
    def forward(self, batch: Sequence[LlavaPrepared]) -> list[Reading]:
        features = self._picture_features(batch)
        readings: dict[int, Reading] = {}
        for group in _groups(batch):
            readings.update(self._read_group(group, features))
        return [readings[i] for i in range(len(batch))]

    def _read_group(self, group: _Group, features: Features) -> dict[int, Reading]:
        """Readings by index in the batch. The prefix is on the account of the first."""
        cache = self._prefix_cache(group.items[0], group.prefix, features)
        readings: dict[int, Reading] = {}
        for row in _rows(group.items):
            items = [group.items[i] for i in row]
            first = 0 if readings else group.prefix
            read = self._read_row(items, group.prefix, cache, first)
            readings.update(zip([group.indices[i] for i in row], read, strict=True))
        return readings

    def _read_row(
        self, items: Sequence[LlavaPrepared], prefix: int, cache: DynamicCache, account: int
    ) -> list[Reading]:
        """One pass; leaves the cache as it was. `account` is added to the first item's tokens."""
        row = pack([Segment(item.token_ids[prefix:], item.tree) for item in items], prefix)
        hidden = self._language(
            inputs_embeds=self._embedding(self._tensor(row.token_ids))[None],
            position_ids=self._tensor(row.positions)[None],
            cache=cache,
            **self._attention(row),
        ).last_hidden_state[0]  # (N, hidden)
        cache.crop(-len(row.token_ids))
        values = self._log_probs(hidden, row.read_rows, row.read_tokens)
        ends = np.cumsum([0, *(len(item.tree.reads) for item in items)])
        return [
            Reading(
                opening_mass=item.tree.opening_mass(values[start:end]),
                answer_log_probs=item.tree.answer_log_probs(values[start:end]),
                computed_tokens=len(item.token_ids)
                - prefix
                + len(item.tree.tokens)
                + (account if i == 0 else 0),
            )
            for i, (item, (start, end)) in enumerate(zip(items, pairwise(ends), strict=True))
        ]

    def _prefix_cache(self, item: LlavaPrepared, prefix: int, features: Features) -> DynamicCache:
        cache = DynamicCache(config=self._language.config)
        self._language(
            inputs_embeds=self._embed(item.token_ids[:prefix], item.pictures, features)[None],
            cache=cache,
            use_cache=True,
        )
        return cache

    def _log_probs(self, hidden: torch.Tensor, rows: Array, tokens: Array) -> Floats:
        """(R,) log-probability of each token at its row, over the tokenizer's real entries."""
        unique, inverse = np.unique(rows, return_inverse=True)
        logits = self._logits(hidden[self._tensor(unique)])
        log_probs = torch.log_softmax(logits, dim=-1)
        picked = log_probs[self._tensor(inverse), self._tensor(tokens)]
        values: Floats = picked.to("cpu", torch.float64).numpy()
        return values

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, real vocabulary): rows of the head beyond the tokenizer's size are padding."""
        logits: torch.Tensor = self._head(hidden)[..., : self._tokenizer.size]
        return logits if logits.dtype is torch.float64 else logits.float()

    def _embed(
        self, token_ids: Sequence[int], pictures: Sequence[TiledPicture], features: Features
    ) -> torch.Tensor:
        """(n, hidden) of a prompt's beginning, pictures in their slots."""
        ids = torch.tensor(token_ids, device=self._device)
        embedded: torch.Tensor = self._embedding(ids.clamp(min=0))
        if pictures:
            embedded[ids == IMAGE_SLOT] = torch.cat([features[p.digest] for p in pictures])
        return embedded

    def _picture_features(self, batch: Sequence[LlavaPrepared]) -> Features:
        """Each picture by itself, so that its features do not depend on its batch-mates."""
        pictures = {p.digest: p for item in batch for p in item.pictures}
        return {digest: self._features(picture) for digest, picture in pictures.items()}

    def _features(self, picture: TiledPicture) -> torch.Tensor:
        pixels = self._tensor(picture.tiles).to(self._dtype)  # (1 + n, 3, side, side)
        # The features before post_layernorm: the original drops the tower's last layer and takes
        # what the encoder then ends with. transformers' `hidden_states[-1]` has meant both.
        patches = self._vision.encoder(
            inputs_embeds=self._vision.embeddings(pixels)
        ).last_hidden_state
        projected = self._projector(patches)  # (1 + n, patches, hidden)
        return torch.cat([projected[0], self._grid_features(projected[1:], picture)])

    def _grid_features(self, grid: torch.Tensor, picture: TiledPicture) -> torch.Tensor:
        """(tokens, hidden): tiles put together, padding cut away, a newline after every row."""
        across, down = picture.layout.grid_tiles
        side = int(grid.shape[1] ** 0.5)
        hidden = grid.shape[-1]
        plane = grid.view(down, across, side, side, hidden).permute(4, 0, 2, 1, 3)
        plane = plane.reshape(hidden, down * side, across * side)
        left, top, right, bottom = picture.layout.unpadded
        plane = plane[:, top:bottom, left:right]
        width, height = picture.layout.shrunk
        if (height, width) != plane.shape[1:]:
            plane = nn.functional.interpolate(plane[None], (height, width), mode="bilinear")[0]
        newline = self._newline[:, None, None].expand(-1, height, 1)
        return torch.cat([plane, newline], dim=-1).flatten(1).T

    def critique(self, item: LlavaPrepared, max_tokens: int) -> Generator[Written, None, None]:
        """See `critic.Critic`: greedy, one token a step."""
        tokens: list[int] = []
        shown = ""
        with torch.inference_mode():
            features = self._picture_features([item])
            cache = self._prefix_cache(item, len(item.token_ids) - 1, features)
        following = item.token_ids[-1]
        max_tokens = min(max_tokens, self.card.max_input_tokens - len(item.token_ids))
        while len(tokens) < max_tokens:
            following = self._next_token(following, cache)
            if following in self._end_tokens:
                return
            tokens.append(following)
            text = self._tokenizer.decode(tokens)
            complete = text if not text.endswith(REPLACEMENT) else shown
            yield Written(following, complete[len(shown) :])
            shown = complete

    @torch.inference_mode()
    def _next_token(self, token: int, cache: DynamicCache) -> int:
        hidden = self._language(
            inputs_embeds=self._embedding(torch.tensor([[token]], device=self._device)),
            cache=cache,
            use_cache=True,
        ).last_hidden_state[0]
        return int(self._logits(hidden)[-1].argmax())

    def _attention(self, row: PackedRow) -> dict[str, Any]:
        """How the language model is told who sees whom: in blocks, or with one dense mask."""
        if self.in_blocks:
            # A mapping with no mask in it stops transformers from making a causal one.
            layers = dict.fromkeys(self._language.config.layer_types)
            return {"attention_mask": layers, "blocks": Blocks.of(row, self._dtype)}
        # Additive, because attention would turn a boolean mask into this in every layer.
        mask = torch.zeros(row.mask.shape, dtype=self._dtype, device=self._device)
        mask = mask.masked_fill_(~self._tensor(row.mask), float("-inf"))
        return {"attention_mask": mask[None, None]}

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _rows(items: Sequence[LlavaPrepared]) -> list[list[int]]:
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


def _groups(batch: Sequence[LlavaPrepared]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for index, item in enumerate(batch):
        group = groups.setdefault(item.group, _Group([], []))
        group.indices.append(index)
        group.items.append(item)
    return list(groups.values())
