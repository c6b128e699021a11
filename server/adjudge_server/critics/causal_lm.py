"""Any text-only instruct model as a critic: the same templates, without pictures."""

from collections.abc import Generator, Sequence

import torch
from transformers import PreTrainedModel

from adjudge_server.caches import CacheBytes
from adjudge_server.critic import CriticCard, Query, Reading, Written
from adjudge_server.critics.decoder import Decoder, no_pictures
from adjudge_server.critics.local import LocalCritic
from adjudge_server.critics.memory import memory_errors
from adjudge_server.critics.preparing import PreparedPrompt, Preparer
from adjudge_server.critics.reloading import Weights
from adjudge_server.critics.vocabulary import VocabularyHead
from adjudge_server.errors import InputTooLong
from adjudge_server.tokenization import TextTokenizer


class CausalLmCritic(LocalCritic):
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
        super().__init__(card, Decoder(model.base_model, caches.prefixes), weights)
        self._preparer = preparer
        self._repetition_penalty = repetition_penalty
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

    def critique(self, item: PreparedPrompt, max_tokens: int) -> Generator[Written, None, None]:
        return self._head.write(item, no_pictures, max_tokens, self._repetition_penalty)
