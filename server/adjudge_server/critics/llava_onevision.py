"""LLaVA-OneVision critics, LLaVA-Critic's architecture among them."""

from transformers import LlavaOnevisionForConditionalGeneration

from adjudge_server.caches import CacheBytes
from adjudge_server.critic import CriticCard
from adjudge_server.critics.llava_vision import LlavaVision
from adjudge_server.critics.preparing import Preparer
from adjudge_server.critics.reloading import Weights
from adjudge_server.critics.seeing import SeeingCritic
from adjudge_server.tokenization import TextTokenizer


class LlavaOnevisionCritic(SeeingCritic):
    """See `critic.Critic`. Built by `llava_loading.load`."""

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        tokenizer: TextTokenizer,
        preparer: Preparer,
        card: CriticCard,
        end_tokens: frozenset[int],
        repetition_penalty: float,
        vision: LlavaVision,
        caches: CacheBytes,
        weights: Weights | None = None,
    ) -> None:
        super().__init__(
            model.model.language_model,
            model.lm_head,
            tokenizer,
            preparer,
            card,
            end_tokens,
            repetition_penalty,
            vision,
            caches,
            weights,
        )
