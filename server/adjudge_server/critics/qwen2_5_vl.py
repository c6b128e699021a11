"""Qwen2.5-VL critics, LLaVA-Critic-R1 and UnifiedReward's newer ones among them."""

from transformers import Qwen2_5_VLForConditionalGeneration

from adjudge_server.caches import CacheBytes
from adjudge_server.critic import CriticCard
from adjudge_server.critics.preparing import Preparer
from adjudge_server.critics.qwen2_5_vl_vision import Qwen2_5VlVision
from adjudge_server.critics.reloading import Blueprint, Weights
from adjudge_server.critics.seeing import SeeingCritic


class Qwen2_5VlCritic(SeeingCritic):
    """See `critic.Critic`. Built by `qwen2_5_vl_loading.load`."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        blueprint: Blueprint,
        preparer: Preparer,
        card: CriticCard,
        repetition_penalty: float,
        vision: Qwen2_5VlVision,
        caches: CacheBytes,
        weights: Weights,
    ) -> None:
        super().__init__(
            model.model.language_model,
            model.lm_head,
            blueprint.tokenizer,
            preparer,
            card,
            blueprint.end_tokens,
            repetition_penalty,
            vision,
            caches,
            weights,
        )
