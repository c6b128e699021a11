"""LLaVA-OneVision critics, LLaVA-Critic's architecture among them: pictures before a decoder."""

from collections.abc import Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaOnevisionForConditionalGeneration

from adjudge_server.critic import CriticCard, Query, Reading, Written
from adjudge_server.critics.decoder import Decoder, Embed
from adjudge_server.critics.llava_vision import LlavaVision
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt, Preparer
from adjudge_server.critics.vocabulary import VocabularyHead
from adjudge_server.errors import InputTooLong
from adjudge_server.tokenization import TextTokenizer


class LlavaOnevisionCritic:
    """See `critic.Critic`. Built by `llava_loading.load`."""

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        tokenizer: TextTokenizer,
        preparer: Preparer,
        card: CriticCard,
        end_tokens: frozenset[int],
        repetition_penalty: float,
    ) -> None:
        self.card = card
        self._preparer = preparer
        self._repetition_penalty = repetition_penalty
        self._vision = LlavaVision(model.model)
        self.decoder = Decoder(model.model.language_model)
        self._head = VocabularyHead(self.decoder, model.lm_head, tokenizer, end_tokens)

    def prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt | InputTooLong]:
        return self._preparer.prepare(queries)

    def after(
        self, item: PreparedPrompt, written: Sequence[Written], start: int, opening: str
    ) -> PreparedPrompt:
        return self._preparer.after(item, written, start, opening)

    @torch.inference_mode()
    def forward(self, batch: Sequence[PreparedPrompt]) -> list[Reading]:
        return self._head.read(batch, self._embed(batch))

    def critique(self, item: PreparedPrompt, max_tokens: int) -> Generator[Written, None, None]:
        with torch.inference_mode():
            embed = self._embed([item])
        yield from self._head.write(item, embed, max_tokens, self._repetition_penalty)

    @torch.inference_mode()
    def next_logits(self, item: PreparedPrompt) -> NDArray[np.float32]:
        """(real vocabulary,) logits of the critic's first token."""
        return self._head.next_logits(item, self._embed([item]))

    def _embed(self, batch: Sequence[PreparedPrompt]) -> Embed:
        """Each picture of the batch by itself, so that its features do not depend on its
        batch-mates."""
        pictures = {p.digest: p for item in batch for p in item.pictures}
        features = {digest: self._vision.features(p) for digest, p in pictures.items()}

        def embed(item: PreparedPrompt, count: int) -> torch.Tensor:
            token_ids = item.token_ids[:count]
            embedded = self.decoder.embed(token_ids)
            if item.pictures:
                slots = [i for i, token in enumerate(token_ids) if token == IMAGE_SLOT]
                embedded[slots] = torch.cat([features[p.digest] for p in item.pictures])
            return embedded

        return embed
