"""Keys and values of a run of tokens, in every layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class KeysValues:
    """See `prefix_tree.Divisible`. Never changed."""

    layers: tuple[Pair, ...]
    """Key and value, (kv heads, tokens, size) each."""

    @property
    def num_tokens(self) -> int:
        return self.layers[0][0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for pair in self.layers for tensor in pair)

    def split(self, at: int) -> tuple[Self, Self]:
        cut = [(k[:, :at].clone(), v[:, :at].clone()) for k, v in self.layers]
        rest = [(k[:, at:].clone(), v[:, at:].clone()) for k, v in self.layers]
        return type(self)(tuple(cut)), type(self)(tuple(rest))


class Growing:
    """Keys and values of what is being written: room is doubled when it is used up."""

    def __init__(self) -> None:
        self._layers: list[Pair] = []
        self._count = 0

    def append(self, token: KeysValues) -> None:
        """Adds one token."""
        if not self._layers:
            self._layers = list(token.layers)
        elif self._layers[0][0].shape[1] == self._count:
            self._layers = [(_doubled(key), _doubled(value)) for key, value in self._layers]
        for held, added in zip(self._layers, token.layers, strict=True):
            for tensor, new in zip(held, added, strict=True):
                tensor[:, self._count] = new[:, 0]
        self._count += 1

    @property
    def held(self) -> KeysValues | None:
        """All tokens; None before the first."""
        if not self._count:
            return None
        return KeysValues(
            tuple((k[:, : self._count], v[:, : self._count]) for k, v in self._layers)
        )


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, torch.empty_like(tensor)], dim=1)


def joined(parts: Sequence[KeysValues]) -> KeysValues:
    """Of runs that follow each other."""
    if len(parts) == 1:
        return parts[0]
    layers = zip(*(part.layers for part in parts), strict=True)
    return KeysValues(
        tuple(
            (torch.cat([k for k, _ in pairs], dim=1), torch.cat([v for _, v in pairs], dim=1))
            for pairs in layers
        )
    )
