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
