"""Any text-only instruct model as a critic: the same templates, without pictures."""

from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from adjudge_server.caches import CacheBytes
from adjudge_server.critic import CriticCard, Query, Reading, Spare, Written
from adjudge_server.critics.decoder import Decoder, no_pictures
from adjudge_server.critics.memory import memory_errors, release
from adjudge_server.critics.preparing import PreparedPrompt, Preparer
from adjudge_server.critics.reloading import Weights
from adjudge_server.critics.vocabulary import VocabularyHead
from adjudge_server.errors import InputTooLong
from adjudge_server.tokenization import TextTokenizer


class CausalLmCritic:
    """See `critic.Critic`. Built by `causal_lm_loading.load`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        preparer: Preparer,
        card: CriticCard,
        end_tokens: frozenset[int],
        repetition_penalty: float,
        weights: Weights,
        caches: CacheBytes,
    ) -> None:
        self.card = card
        self._preparer = preparer
        self._repetition_penalty = repetition_penalty
        self._weights = weights
        self.decoder = Decoder(model.base_model, caches.prefixes)
        self._head = VocabularyHead(
            self.decoder, model.get_output_embeddings(), tokenizer, end_tokens
        )

    def prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt | InputTooLong]:
        return self._preparer.prepare(queries)

    def after(
        self, item: PreparedPrompt, written: Sequence[Written], start: int, opening: str
    ) -> PreparedPrompt:
        return self._preparer.after(item, written, start, opening)

    @torch.inference_mode()
    def forward(self, batch: Sequence[PreparedPrompt]) -> list[Reading]:
        with memory_errors():
            return self._head.read(batch, no_pictures)

    def forget(self) -> None:
        self.decoder.prefixes.clear()
        release(self.decoder.device)

    def read_weights(self, directory: Path) -> Spare:
        return self._weights.read(directory, self.card)

    def exchange(self, spare: Spare) -> None:
        self._weights.exchange(spare)
        self.card, spare.card = spare.card, self.card
        self.forget()

    def critique(self, item: PreparedPrompt, max_tokens: int) -> Generator[Written, None, None]:
        return self._head.write(item, no_pictures, max_tokens, self._repetition_penalty)
