"""How much a critic may remember between batches."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Bounds, in bytes on the model's device. 0 remembers nothing."""

    prefixes: int = 2 << 30
    """Keys and values of what prompts begin with."""
    features: int = 512 << 20
    """What the vision tower made of pictures."""


DEFAULT = CacheBytes()


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What became of what was looked for since the start, and what is held now."""

    hits: int = 0
    misses: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What a critic remembers between batches."""

    prefixes: CacheUse = CacheUse()
    """Looked for once for each different prompt of a batch; a hit if any of it was remembered."""
    features: CacheUse = CacheUse()
    reused_tokens: int = 0
    """Of prompts, that were remembered instead of computed."""
    computed_tokens: int = 0
    """Rows that went through the language model for them, those of answers included."""
