"""Who gives the rewards: the critic, and for the control the critic shuffled."""

from collections.abc import Sequence

import torch
from PIL import Image

from adjudge_reranker import RewardClient
from adjudge_reranker.trainers import AdjudgeReward

from .rollouts import Judge
from .speech import QUESTION


def critic_judge(client: RewardClient) -> Judge:
    """The critic's rewards, by way of the adapter that TRL's trainers use, too: the answers to one
    picture travel together, with their picture."""
    reward = AdjudgeReward(client, on_failure="none")

    def judge(images: Sequence[Image.Image], answers: Sequence[str]) -> list[float | None]:
        return reward([QUESTION] * len(answers), list(answers), image=list(images))

    return judge


def shuffled(judge: Judge, seed: int) -> Judge:
    """The same rewards, handed out to the wrong answers."""
    generator = torch.Generator().manual_seed(seed)

    def judge_shuffled(images: Sequence[Image.Image], answers: Sequence[str]) -> list[float | None]:
        rewards = judge(images, answers)
        return [rewards[i] for i in torch.randperm(len(rewards), generator=generator)]

    return judge_shuffled
