"""Answers to learn from: sampled, judged by the critic, and credited token by token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from .policy import Prompt, answer, run

Judge = Callable[[Sequence[Image.Image], Sequence[str]], list[float | None]]
"""Pictures and answers to rewards, 0 to 100; None where there is none."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Answers with a reward. n answers, `length` tokens each at most."""

    pixels: Tensor
    """(n, 3, 28, 28)"""
    tokens: Tensor
    """(n, length)"""
    mask: Tensor
    """(n, length): which tokens count."""
    log_probs: Tensor
    """(n, length), of the tokens, by the policy that chose them."""
    advantages: Tensor
    """(n, length), mean 0 and spread 1 over the tokens that count."""
    returns: Tensor
    """(n, length), what the value head should have said."""
    rewards: Tensor
    """(n,), the critic's, 0 to 100."""
    divergence: Tensor
    """(n,), log-probability of the answer by the policy less that by the reference, in nats; its
    mean estimates the KL divergence."""
    kept: Tensor
    """(n,), which of the answers these are; the others have no reward."""


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, decay: float) -> Tensor:
    """GAE (Schulman et al. 2016, equation 16) with gamma = 1: (n, length).

    `rewards` and `values` are those of each token, before the next is chosen; `decay` is lambda.
    Nothing follows the last token that counts.
    """
    advantages = torch.zeros_like(rewards)
    following_value = following = torch.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        surprise = rewards[:, t] + following_value - values[:, t]
        following = (surprise + decay * following) * mask[:, t]
        following_value = values[:, t] * mask[:, t]
        advantages[:, t] = following
    return advantages


def chosen_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """(n, length, vocabulary) and (n, length) to (n, length)."""
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def normalised(advantages: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and spread 1 over what counts, 0 elsewhere."""
    counted = advantages[mask]
    return (advantages - counted.mean()) / (counted.std() + 1e-6) * mask


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects rollouts."""

    prompt: Prompt
    reference: nn.Module
    """The policy as it was before, frozen."""
    judge: Judge
    kl_weight: float
    """What a nat of divergence from the reference costs, as a share of the full reward of 100."""
    decay: float

    @torch.no_grad()
    def collect(
        self,
        policy: nn.Module,
        value_head: nn.Module,
        images: Sequence[Image.Image],
        pixels: Tensor,
    ) -> Rollout | None:
        """One answer to each picture; None if none of them has a reward."""
        tokens = answer(policy, self.prompt, pixels)
        judged = self.judge(images, self.prompt.decode(tokens))
        # An answer without a reward teaches nothing: to count it as 0 would be to make one up.
        kept = torch.tensor([i for i, reward in enumerate(judged) if reward is not None])
        if len(kept) == 0:
            return None
        pixels, tokens = pixels[kept], tokens[kept]
        rewards = torch.tensor([reward for reward in judged if reward is not None])
        mask = self.prompt.mask(tokens)
        logits, states = run(policy, self.prompt, pixels, tokens)
        log_probs = chosen_log_probs(logits, tokens) * mask
        reference_logits, _ = run(self.reference, self.prompt, pixels, tokens)
        divergence = log_probs - chosen_log_probs(reference_logits, tokens) * mask
        values = value_head(states)[..., 0] * mask
        token_rewards = -self.kl_weight * divergence
        token_rewards[torch.arange(len(tokens)), mask.sum(1) - 1] += rewards / 100
        advantages = generalised_advantages(token_rewards, values, mask, self.decay)
        return Rollout(
            pixels,
            tokens,
            mask,
            log_probs,
            normalised(advantages, mask),
            advantages + values,
            rewards,
            divergence.sum(1),
            kept,
        )
