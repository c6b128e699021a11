"""Reward models with a scalar head, such as Skywork-Reward: the head's value at the conversation's
last token."""

from collections.abc import Generator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from adjudge_server import leaving
from adjudge_server.answers import NO_ANSWERS
from adjudge_server.caches import CacheBytes
from adjudge_server.content import Role
from adjudge_server.critic import CriticCard, Query, Reading, Turn, Written
from adjudge_server.critics.chat_template import ChatTemplate
from adjudge_server.critics.decoder import Decoder, no_pictures
from adjudge_server.critics.local import LocalCritic
from adjudge_server.critics.memory import memory_errors
from adjudge_server.critics.preparing import PreparedPrompt, common_prefix, encode, too_long
from adjudge_server.critics.reloading import Weights
from adjudge_server.errors import InputTooLong, UnsupportedOperation
from adjudge_server.tokenization import TextTokenizer


class SequenceClassificationCritic(LocalCritic):
    """See `critic.Critic`. Built by `sequence_classification_loading.load`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        chat_template: ChatTemplate,
        card: CriticCard,
        weights: Weights,
        caches: CacheBytes,
    ) -> None:
        super().__init__(card, Decoder(model.base_model, caches.prefixes), weights)
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._pad = model.config.pad_token_id
        self._score = model.score

    def prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt | InputTooLong]:
        """Raises UnsupportedContent for a prompt of roles that the chat template does not take."""
        heads: dict[str, list[int]] = {}
        return [self._prepare(query, heads) for query in queries]

    def _prepare(self, query: Query, heads: dict[str, list[int]]) -> PreparedPrompt | InputTooLong:
        leaving.check()
        token_ids = self._token_ids(query.turns, query.candidates[0])
        if error := too_long(len(token_ids), self.card.max_input_tokens):
            return error
        if query.group not in heads:
            heads[query.group] = self._token_ids(query.turns, "")
        return PreparedPrompt(
            group=query.group,
            template=query.template,
            token_ids=tuple(token_ids),
            shared_tokens=common_prefix(token_ids, heads[query.group]),
            pictures=(),
            tree=NO_ANSWERS,
        )

    def _token_ids(self, prompt: Sequence[Turn], candidate: str) -> list[int]:
        turns = (*prompt, Turn(Role.ASSISTANT, candidate))
        token_ids = encode(self._chat_template.pieces(turns, answer=False), self._tokenizer)
        # transformers takes the last token that is not the padding token, which some chat templates
        # end a turn with. What comes after it changes nothing.
        while len(token_ids) > 1 and token_ids[-1] == self._pad:
            token_ids.pop()
        return token_ids

    @torch.inference_mode()
    def forward(self, batch: Sequence[PreparedPrompt]) -> list[Reading]:
        with memory_errors():
            passed = self.decoder.run(batch, no_pictures)
        last = np.array([leaf.last for leaf in passed.leaves])
        values = self._score(passed.hidden[self.decoder.tensor(last)])[:, 0].double().tolist()
        scalars = {
            index: value
            for leaf, value in zip(passed.leaves, values, strict=True)
            for index in leaf.indices
        }
        return [
            Reading(0.0, np.empty(0), passed.computed[index], scalar=scalars[index])
            for index in range(len(batch))
        ]

    def critique(self, item: PreparedPrompt, max_tokens: int) -> Generator[Written, None, None]:
        raise UnsupportedOperation(f"{self.card.name} does not write")

    def after(
        self, item: PreparedPrompt, written: Sequence[Written], start: int, opening: str
    ) -> PreparedPrompt:
        raise UnsupportedOperation(f"{self.card.name} does not write")
