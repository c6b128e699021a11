"""What an ensemble is, as a file defines it; what becomes of it is in `ensembles`."""

from dataclasses import dataclass

from adjudge_server.combining import Combination, Rule, Spread


@dataclass(frozen=True, slots=True)
class Member:
    """One of those who are asked."""

    critic: str
    template: str = ""
    """Name of one of its pointwise templates; empty: its default."""
    weight: float = 1.0
    scale: float = 1.0
    """Not 0."""
    offset: float = 0.0
    leaves_pictures_out: bool = False
    """Whether it is asked without the prompt's pictures."""

    def on_common_scale(self, reward: float) -> float:
        return self.scale * reward + self.offset


@dataclass(frozen=True, slots=True)
class Definition:
    """An ensemble as a file defines it."""

    name: str
    combination: Combination
    members: tuple[Member, ...]
    penalty: float = 0.0
    spread: Spread = Spread.STANDARD_DEVIATION

    @property
    def rule(self) -> Rule:
        return Rule(
            self.combination,
            tuple(member.weight for member in self.members),
            self.penalty,
            self.spread,
        )
