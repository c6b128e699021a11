"""Critics that see: pictures before a decoder with a vocabulary head."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from adjudge_server.caches import CacheBytes, Memory
from adjudge_server.critic import CriticCard, Query, Reading, Written
from adjudge_server.critics.decoder import Decoder, Features
from adjudge_server.critics.local import LocalCritic
from adjudge_server.critics.memory import memory_errors
from adjudge_server.critics.preparing import PreparedPrompt, Preparer
from adjudge_server.critics.reloading import Weights
from adjudge_server.critics.vision import Vision
from adjudge_server.critics.vocabulary import VocabularyHead
from adjudge_server.errors import InputTooLong
from adjudge_server.tokenization import TextTokenizer


class SeeingCritic(LocalCritic):
    """See `critic.Critic`. The families' loaders build their own."""

    def __init__(
        self,
        language: PreTrainedModel,
        head: nn.Module,
        tokenizer: TextTokenizer,
        preparer: Preparer,
        card: CriticCard,
        end_tokens: frozenset[int],
        repetition_penalty: float,
        vision: Vision[Any],
        caches: CacheBytes,
        weights: Weights | None = None,
    ) -> None:
        """`language`: the decoder without its `head`."""
        super().__init__(card, Decoder(language, caches.prefixes), weights)
        self._preparer = preparer
        self._repetition_penalty = repetition_penalty
        self._vision = vision
        self._head = VocabularyHead(self.decoder, head, tokenizer, end_tokens)

    def prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt | InputTooLong]:
        return self._preparer.prepare(queries)

    def after(
        self, item: PreparedPrompt, written: Sequence[Written], start: int, opening: str
    ) -> PreparedPrompt:
        return self._preparer.after(item, written, start, opening)

    @torch.inference_mode()
    def forward(self, batch: Sequence[PreparedPrompt]) -> list[Reading]:
        with memory_errors():
            return self._head.read(batch, self._features(batch))

    def forget(self) -> None:
        self._vision.forget()
        super().forget()

    def memory(self) -> Memory:
        return replace(super().memory(), features=self._vision.use)

    def critique(self, item: PreparedPrompt, max_tokens: int) -> Generator[Written, None, None]:
        features = self._features([item])
        return self._head.write(item, features, max_tokens, self._repetition_penalty)

    @torch.inference_mode()
    def next_logits(self, item: PreparedPrompt) -> NDArray[np.float32]:
        """(real vocabulary,) logits of the critic's first token."""
        return self._head.next_logits(item, self._features([item]))

    def _features(self, batch: Sequence[PreparedPrompt]) -> Features:
        pictures = {p.digest: p for item in batch for p in item.pictures}
        return lambda digest: self._vision.features(pictures[digest])
