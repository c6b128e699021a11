"""The tokenizer: byte-level BPE with Qwen2's pre-tokenizer, trained on our own prompts.

Text between two special tokens is one string to the tokenizer, and the tokenizer that reads it has
no added tokens, so a special token's name inside a text is plain text. The special tokens are put
in by id.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCABULARY = 2048
END_OF_TEXT, IM_START, IM_END, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"
SPECIALS = (END_OF_TEXT, IM_START, IM_END, IMAGE)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Trains on the texts; the special tokens take the last ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size != VOCABULARY - len(SPECIALS):
        raise ValueError(f"the corpus yields {size} entries only")
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


class Encoder:
    """Texts to ids, and ids to texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        definition = json.loads(tokenizer.to_str())
        ids = {token["content"]: int(token["id"]) for token in definition["added_tokens"]}
        definition["added_tokens"] = []
        self._plain = Tokenizer.from_str(json.dumps(definition))
        self.end_of_text, self.im_start, self.im_end, self.image = (ids[s] for s in SPECIALS)

    @classmethod
    def from_file(cls, path: Path) -> "Encoder":
        return cls(Tokenizer.from_file(str(path)))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text).ids
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids and character spans of each text."""
        return [(e.ids, e.offsets) for e in self._plain.encode_batch(list(texts))]

    def token_id(self, token_text: str) -> int | None:
        """The id of a text that is one token."""
        ids = self.encode(token_text)
        return ids[0] if len(ids) == 1 else None


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the files that transformers looks for."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_prefix_space": False,
        "additional_special_tokens": [IM_START, IM_END, IMAGE],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": IM_END,
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    names = {
        "additional_special_tokens": [IM_START, IM_END, IMAGE],
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
