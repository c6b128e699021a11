"""The oracle of the engine's tests: plain transformers, one sequence at a time, nothing remembered,
nothing shared, no mask."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from adjudge_server.critic import Reading
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt


@torch.inference_mode()
def log_probs(critic: Any, item: PreparedPrompt, said: Sequence[int]) -> np.ndarray[Any, Any]:
    """(1 + len(said), real vocabulary) after the prompt, and after each token that was said."""
    decoder = critic.decoder
    token_ids = torch.tensor([*item.token_ids, *said], device=decoder.device)
    embedded = decoder._embedding(token_ids.clamp(min=0))
    if item.pictures:
        features = [critic._vision._computed(picture) for picture in item.pictures]
        embedded[token_ids == IMAGE_SLOT] = torch.cat(features)
    hidden = decoder._language(inputs_embeds=embedded[None]).last_hidden_state[0]
    logits = critic._head._head(hidden[len(item.token_ids) - 1 :])[
        :, : critic._head._tokenizer.size
    ]
    return torch.log_softmax(logits.double(), dim=-1).cpu().numpy()


def reading(critic: Any, item: PreparedPrompt) -> Reading:
    """The item's reading, one sequence for each row of its answer tree."""
    tree = item.tree
    values = np.empty(len(tree.reads))
    for row in {row for row, _ in tree.reads}:
        path: list[int] = []
        at = row
        while at > 0:
            path.insert(0, tree.tokens[at - 1])
            at = tree.parents[at - 1]
        last = log_probs(critic, item, path)[-1]
        for index, (read_row, token) in enumerate(tree.reads):
            if read_row == row:
                values[index] = last[token]
    return Reading(tree.opening_mass(values), tree.answer_log_probs(values), 0)


def greedy(critic: Any, item: PreparedPrompt, count: int) -> list[int]:
    """The first tokens that the critic says."""
    said: list[int] = []
    while len(said) < count:
        token = int(log_probs(critic, item, said)[-1].argmax())
        if token in critic._head._end_tokens:
            break
        said.append(token)
    return said
