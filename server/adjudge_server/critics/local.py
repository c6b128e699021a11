"""What all critics that run in this process do alike: forget, and move their weights."""

from pathlib import Path

from adjudge_server.caches import CacheUse, Memory
from adjudge_server.critic import CriticCard, Spare
from adjudge_server.critics.decoder import Decoder
from adjudge_server.critics.memory import release
from adjudge_server.critics.reloading import Weights


class LocalCritic:
    """A part of `critic.Critic`; the families add the rest."""

    def __init__(self, card: CriticCard, decoder: Decoder, weights: Weights | None) -> None:
        """`weights`: None where they are not to be moved."""
        self.card = card
        self.decoder = decoder
        self._weights = weights

    def forget(self) -> None:
        self.decoder.prefixes.clear()
        release(self.decoder.device)

    def memory(self) -> Memory:
        decoder = self.decoder
        return Memory(
            prefixes=CacheUse(decoder.num_known, decoder.num_new, decoder.prefixes.nbytes),
            reused_tokens=decoder.reused_tokens,
            computed_tokens=decoder.computed_tokens,
        )

    def read_weights(self, directory: Path) -> Spare:
        assert self._weights is not None
        return self._weights.read(directory, self.card)

    def exchange(self, spare: Spare) -> None:
        assert self._weights is not None
        self._weights.exchange(spare)
        self.card, spare.card = spare.card, self.card
        self.forget()
