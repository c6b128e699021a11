"""Pairs in the preference format of TRL's DPOTrainer.

https://huggingface.co/docs/trl/dataset_formats: `prompt`, `chosen` and `rejected`, all of them
texts or all of them lists of messages, and `images`, a list. TRL looks at the first row only to see
which, and pyarrow wants one type a column, so that all rows of a file have one shape.
"""

import json
from typing import Any, Final

from adjudge_reranker.mining.judging import ConfirmedPair, Mined
from adjudge_reranker.mining.prompts import Chat, Prompt, PromptFile

Row = dict[str, Any]
_IMAGE: Final = {"type": "image"}


class Shape:
    """What the rows of one file look like.

    They are chats if any of the input is, and wherever there are pictures: in a plain text TRL
    would want the policy's own token for them. `images` is in every row or in none.
    """

    def __init__(self, source: PromptFile) -> None:
        self._chats = source.has_chats or source.has_images
        self._parts = source.has_parts
        self._images = source.has_images

    def rows(self, mined: Mined) -> list[Row]:
        """One for each pair."""
        return [self._row(mined, pair) for pair in mined.pairs]

    def _row(self, mined: Mined, pair: ConfirmedPair) -> Row:
        prompt = mined.prompt
        row: Row = {
            "prompt": self._prompt(prompt),
            "chosen": self._candidate(prompt.candidates[pair.chosen]),
            "rejected": self._candidate(prompt.candidates[pair.rejected]),
        }
        if self._images:
            # Absolute, because whoever loads the file does so from another folder.
            row["images"] = [str(path.resolve()) for path in prompt.images]
        return row | {
            "chosen_reward": pair.chosen_reward,
            "rejected_reward": pair.rejected_reward,
            "margin": pair.margin,
            "provenance": {
                "id": prompt.id if isinstance(prompt.id, str) else json.dumps(prompt.id),
                "line": prompt.number + 1,
                "prompt_digest": mined.prompt_digest,
                "chosen_index": pair.chosen,
                "rejected_index": pair.rejected,
                **mined.critic.record(),
                "comparison": pair.comparison,
            },
        }

    def _prompt(self, prompt: Prompt) -> str | Chat:
        if not self._chats:
            return prompt.prompt
        chat = prompt.prompt
        if isinstance(chat, str):
            chat = [{"role": "user", "content": chat}]
        if not self._parts:
            return chat
        places = [
            part
            for message in chat
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image"
        ]
        waiting = [] if places else [_IMAGE] * len(prompt.images)
        spelled = []
        for message in chat:
            parts = _parts(message["content"])
            if waiting and message["role"] == "user":
                parts, waiting = [*waiting, *parts], []
            spelled.append({"role": message["role"], "content": parts})
        return spelled

    def _candidate(self, candidate: str | Chat) -> str | Chat:
        if not self._chats:
            return candidate
        chat = candidate
        if isinstance(chat, str):
            chat = [{"role": "assistant", "content": chat}]
        if not self._parts:
            return chat
        return [{"role": one["role"], "content": _parts(one["content"])} for one in chat]


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
