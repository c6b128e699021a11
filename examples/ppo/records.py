"""What a run is asked to do, and what it reports."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run goes."""

    seed: int = 1
    shuffled: bool = False
    """The control: each answer gets the reward of another one of its batch."""
    num_steps: int = 100
    num_images: int = 32
    """Pictures a step."""
    num_answers: int = 8
    """Answers to each."""
    imitation_steps: int = 80
    learning_rate: float = 5e-4
    eyes_learning_rate: float = 1e-3
    """Both rise for ten steps, because Adam's first steps are its boldest, and then fall to 0."""
    kl_weight: float = 0.05
    decay: float = 0.95
    measure_every: int = 10
    """Steps from one measurement on held-out pictures to the next."""
    num_measured: int = 500
    """Held-out pictures in those; the first and the last are over all of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step saw, means over its answers, and what the update did."""

    step: int
    reward: float
    """0 to 100."""
    accuracy: float
    """Of the sampled answers, by the labels that the critic is never shown."""
    kl: float
    """From the reference, in nats an answer."""
    length: float
    """Tokens, with the end."""
    num_missing: int
    """Answers without a reward, which nothing was learnt from."""
    entropy: float
    clipped: float
    moved: float
    value_error: float
    """These four as in `learning.Update`."""
    seconds: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: reward {self.reward:.1f}, right {self.accuracy:.0%},"
            f" KL {self.kl:.2f}, {self.length:.1f} tokens, entropy {self.entropy:.3f},"
            f" clipped {self.clipped:.0%}, missing {self.num_missing}, {self.seconds:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the policy says about held-out pictures, after `step` steps."""

    step: int
    sampled_accuracy: float
    """Of one answer drawn for each picture."""
    greedy_accuracy: float
    """Of the likeliest answer."""
    wordings: dict[str, float]
    """Shares of the commonest wordings among the drawn answers."""

    def __str__(self) -> str:
        wordings = ", ".join(f"{share:.1%} {wording!r}" for wording, share in self.wordings.items())
        return (
            f"held out: {self.sampled_accuracy:.1%} right, {self.greedy_accuracy:.1%} by the"
            f" likeliest answer; {wordings}"
        )


@dataclass(slots=True)
class Run:
    """Everything to be reported. Grows while the run goes on."""

    settings: Settings
    steps: list[Step] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    num_skipped: int = 0
    """Steps in which not one answer had a reward, so that nothing was learnt."""
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        return asdict(self)
