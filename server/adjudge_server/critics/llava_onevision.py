"""LLaVA-OneVision critics, LLaVA-Critic's architecture among them: pictures before a decoder."""

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaOnevisionForConditionalGeneration

from adjudge_server.caches import CacheBytes, Memory
from adjudge_server.critic import CriticCard, Query, Reading, Written
from adjudge_server.critics.decoder import Decoder, Features
from adjudge_server.critics.llava_vision import LlavaVision
from adjudge_server.critics.local import LocalCritic
from adjudge_server.critics.memory import memory_errors
from adjudge_server.critics.preparing import PreparedPrompt, Preparer
from adjudge_server.critics.reloading import Weights
from adjudge_server.critics.vocabulary import VocabularyHead
from adjudge_server.errors import InputTooLong
from adjudge_server.tokenization import TextTokenizer


class LlavaOnevisionCritic(LocalCritic):
    """See `critic.Critic`. Built by `llava_loading.load`."""

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        tokenizer: TextTokenizer,
        preparer: Preparer,
        card: CriticCard,
        end_tokens: frozenset[int],
        repetition_penalty: float,
        vision: LlavaVision,
        caches: CacheBytes,
        weights: Weights | None = None,
    ) -> None:
        super().__init__(card, Decoder(model.model.language_model, caches.prefixes), weights)
        self._preparer = preparer
        self._repetition_penalty = repetition_penalty
        self._vision = vision
        self._head = VocabularyHead(self.decoder, model.lm_head, tokenizer, end_tokens)

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
