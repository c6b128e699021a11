"""The update: proximal policy optimisation (Schulman et al. 2017)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .policy import Prompt, run
from .rollouts import Rollout, chosen_log_probs


def clipped_objective(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float
) -> Tensor:
    """What PPO maximises, of each token (equation 7): a token's probability gains nothing by moving
    further than `clip` from what it was."""
    ratio = (log_probs - old_log_probs).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


@dataclass(frozen=True, slots=True)
class Update:
    """What happened in an update, means over its tokens."""

    entropy: float
    """Of the next token, in nats."""
    clipped: float
    """Share of tokens that the objective was clipped for."""
    moved: float
    """Estimated KL divergence of the policy before from that after, in nats a token."""
    value_error: float
    """Mean square of what the value head was wrong by, rewards being 0 to 1."""


@dataclass(frozen=True, slots=True)
class Learner:
    """Improves a policy and its value head, which share everything but the last layer."""

    policy: nn.Module
    value_head: nn.Module
    optimizer: torch.optim.Optimizer
    prompt: Prompt
    num_epochs: int = 4
    minibatch: int = 128
    clip: float = 0.2
    value_weight: float = 1.0
    entropy_weight: float = 0.003
    max_moved: float = 0.05
    """The update ends early if the policy moved further than this; see `Update.moved`."""

    def update(self, rollout: Rollout) -> Update:
        """Several passes over the answers. Ends early if the policy moves too far."""
        sums, count = torch.zeros(4), 0
        for rows in self._minibatches(len(rollout.tokens)):
            loss, figures = self._loss(rollout, rows)
            moved = figures[2].item()
            if moved > self.max_moved:
                break
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(
                [*self.policy.parameters(), *self.value_head.parameters()], 1.0
            )
            self.optimizer.step()
            sums, count = sums + figures, count + 1
        return Update(*(sums / max(count, 1)).tolist())

    def _minibatches(self, size: int) -> Iterator[Tensor]:
        for _ in range(self.num_epochs):
            yield from torch.randperm(size).split(self.minibatch)

    def _loss(self, rollout: Rollout, rows: Tensor) -> tuple[Tensor, Tensor]:
        tokens, mask = rollout.tokens[rows], rollout.mask[rows]
        logits, states = run(self.policy, self.prompt, rollout.pixels[rows], tokens)
        log_probs = chosen_log_probs(logits, tokens)[mask]
        old, advantages = rollout.log_probs[rows][mask], rollout.advantages[rows][mask]
        objective = clipped_objective(log_probs, old, advantages, self.clip)
        value_error = (self.value_head(states)[..., 0] - rollout.returns[rows])[mask].square()
        distribution = logits[mask].log_softmax(-1)
        entropy = -(distribution.exp() * distribution).sum(-1)
        loss = (
            -objective.mean()
            + self.value_weight * value_error.mean()
            - self.entropy_weight * entropy.mean()
        )
        with torch.no_grad():
            change = log_probs - old
            clipped = (change.exp() - 1).abs() > self.clip
            moved = change.exp() - 1 - change  # an estimate that is never negative
            figures = [entropy, clipped.float(), moved, value_error]
            return loss, torch.stack([figure.mean() for figure in figures])
