"""Text to token ids, such that no text is ever more than text.

`split_special_tokens=True` is not enough: added tokens that are not marked special (`<think>`,
`<tool_call>`, `<image>`) are still mapped. So text goes through a copy of the tokenizer from which
every added token has been removed, and special tokens are put in by id, by us alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

OFTEN = 64
"""Characters. Texts no longer than this are looked up: those between a layout's special tokens are
the same in every prompt."""


class TextTokenizer:
    """A checkpoint's `tokenizer.json`, split into its text part and its special ids."""

    def __init__(self, definition: str) -> None:
        whole = json.loads(definition)
        tokens = whole["added_tokens"]
        added = {token["content"]: token["id"] for token in tokens}
        whole["added_tokens"] = []
        whole["post_processor"] = None  # would add a beginning-of-text token of its own accord
        whole["truncation"] = whole["padding"] = None
        self._tokenizer = Tokenizer.from_str(json.dumps(whole))
        _never_prepend(whole["pre_tokenizer"])
        self._after_start = Tokenizer.from_str(json.dumps(whole))
        self.added: Mapping[str, int] = added
        """Ids of the added tokens by their text."""
        self._added_ids = frozenset(added.values())
        self._shown = {t["id"]: str(t["content"]) for t in tokens if not t.get("special")}
        self._often = lru_cache(maxsize=256)(_ids)
        self._check_plain(whole["model"])
        self.strips_before = frozenset(t["content"] for t in tokens if t.get("lstrip"))
        self.strips_after = frozenset(t["content"] for t in tokens if t.get("rstrip"))
        """Added tokens that swallow the white space before or after them."""
        self.size = max([*added.values(), self._tokenizer.get_vocab_size() - 1]) + 1
        """Real entries: ids from here on are padding rows of the model's head."""
        text = json.dumps([self._tokenizer.to_str(), self._after_start.to_str(), tokens])
        self.identity = hashlib.sha256(text.encode()).hexdigest()
        """Equal for tokenizers that read and write every text alike."""

    def _check_plain(self, model: Mapping[str, Any]) -> None:
        """Raises ValueError where the vocabulary itself spells added tokens, as Unigram's may: then
        a text could still become one."""
        unknown = {self.added.get(str(model.get("unk_token"))), model.get("unk_id")}
        for text in self.added:
            if (self._added_ids - unknown).intersection(self.encode(text)):
                raise ValueError(f"tokenizer.json: the text {text!r} would be that special token")

    def encode(self, text: str, *, at_start: bool = False) -> list[int]:
        """Ids of the text as one piece. Never split a text before this: BPE merges across seams.

        `at_start`: whether nothing, not even a special token, comes before it. Some tokenizers put
        a space in front of a text, but only there.
        """
        ids = self._often if len(text) <= OFTEN else _ids
        return list(ids(self._tokenizer if at_start else self._after_start, text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the ids. Added tokens are what they look like (`<think>`), unless they are
        special (`<|im_end|>`), which are left out."""
        runs = groupby(token_ids, lambda token: token in self._added_ids)
        return "".join(
            "".join(self._shown.get(i, "") for i in run) if is_added else self._decode_plain(run)
            for is_added, run in runs
        )

    def _decode_plain(self, token_ids: Iterable[int]) -> str:
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    # As `encode` does, but without looking for where each token stood: half the time.
    (encoded,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    ids: list[int] = encoded.ids
    return ids


def _never_prepend(step: Any) -> None:
    """Changes a pre-tokenizer's definition, and those within it, to put no space in front."""
    if isinstance(step, list):
        for inner in step:
            _never_prepend(inner)
    elif isinstance(step, dict):
        if step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "never"
        _never_prepend(step.get("pretokenizers"))
