"""A decoder with its vocabulary head: reads the answers of a template, and writes."""

from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adjudge_server.answers import Floats
from adjudge_server.critic import Reading, Written
from adjudge_server.critics.decoder import Decoder, Features
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.critics.spelling import Spelling
from adjudge_server.tokenization import TextTokenizer

Array = NDArray[Any]

ROWS_AT_ONCE = 256
"""Whose logits are held at a time: a vocabulary of 150,000 is 150 MB for them."""


class VocabularyHead:
    """Log-probabilities of tokens. Logits are computed only where an answer is read."""

    def __init__(
        self,
        decoder: Decoder,
        head: nn.Module,
        tokenizer: TextTokenizer,
        end_tokens: frozenset[int],
    ) -> None:
        """`end_tokens` end the critic's turn."""
        self._decoder = decoder
        self._head = head
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens

    def read(self, batch: Sequence[PreparedPrompt], features: Features) -> list[Reading]:
        """One reading per prompt in order."""
        passed = self._decoder.run(batch, features)
        reads = [leaf.tree.reads for leaf in passed.leaves]
        lasts = [leaf.last for leaf in passed.leaves]
        rows = [
            last + row for last, of_leaf in zip(lasts, reads, strict=True) for row, _ in of_leaf
        ]
        tokens = [token for of_leaf in reads for _, token in of_leaf]
        values = self._log_probs(passed.hidden, np.array(rows), np.array(tokens))
        ends = np.cumsum([0, *map(len, reads)])
        readings: dict[int, Reading] = {}
        for leaf, (start, end) in zip(passed.leaves, pairwise(ends), strict=True):
            opening_mass = leaf.tree.opening_mass(values[start:end])
            answer_log_probs = leaf.tree.answer_log_probs(values[start:end])
            for index in leaf.indices:
                computed = passed.computed[index]
                readings[index] = Reading(opening_mass, answer_log_probs, computed)
        return [readings[i] for i in range(len(batch))]

    def _log_probs(self, hidden: torch.Tensor, rows: Array, tokens: Array) -> Floats:
        """(R,) log-probability of each token at its row, over the tokenizer's real entries."""
        unique, inverse = np.unique(rows, return_inverse=True)
        values = np.empty(len(rows))
        for first in range(0, len(unique), ROWS_AT_ONCE):
            chunk = unique[first : first + ROWS_AT_ONCE]
            chosen = np.flatnonzero((inverse >= first) & (inverse < first + len(chunk)))
            log_probs = torch.log_softmax(self._logits(hidden[self._tensor(chunk)]), dim=-1)
            picked = log_probs[self._tensor(inverse[chosen] - first), self._tensor(tokens[chosen])]
            values[chosen] = picked.to("cpu", torch.float64).numpy()
        return values

    def _tensor(self, array: Array) -> torch.Tensor:
        return self._decoder.tensor(array)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., real vocabulary): rows of the head beyond the tokenizer's size are padding."""
        logits: torch.Tensor = self._head(hidden)[..., : self._tokenizer.size]
        return logits if logits.dtype is torch.float64 else logits.float()

    @torch.inference_mode()
    def next_logits(self, item: PreparedPrompt, features: Features) -> NDArray[np.float32]:
        """(real vocabulary,) logits of the critic's first token, as floats."""
        _, hidden = self._decoder.begin(item, features)
        logits = self._logits(hidden)
        values: NDArray[np.float32] = logits.float().cpu().numpy()
        return values

    def write(
        self, item: PreparedPrompt, features: Features, max_tokens: int, repetition_penalty: float
    ) -> Generator[Written, None, None]:
        """See `critic.Critic.critique`. A logit of a token that was written before is divided by
        the penalty if it is positive, multiplied by it otherwise (arXiv 1909.05858); the prompt's
        tokens are not penalised, as in the original, whose `generate` sees no prompt ids."""
        spelling = Spelling(self._tokenizer)
        written = spelling.tokens
        with torch.inference_mode():
            context, hidden = self._decoder.begin(item, features)
        while len(written) < max_tokens:
            with torch.inference_mode():
                if written:
                    hidden = self._decoder.step(written[-1], context)
                logits = _penalised(self._logits(hidden), written, repetition_penalty)
                following = int(logits.argmax())
            if following in self._end_tokens:
                return
            yield spelling.add(following)


def _penalised(logits: torch.Tensor, written: Sequence[int], penalty: float) -> torch.Tensor:
    if penalty == 1 or not written:
        return logits
    seen = torch.tensor(sorted(set(written)), device=logits.device)
    values = logits[seen]
    return logits.index_copy(0, seen, torch.where(values > 0, values / penalty, values * penalty))
