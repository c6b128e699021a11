"""A reward manager for verl that shows the critic what the policy saw, pictures included.

reward.reward_manager.source=importlib
reward.reward_manager.name=AdjudgeRewardManager
reward.reward_manager.module.path=pkg://adjudge_reranker.trainers.verl_manager
+reward.reward_kwargs.adjudge.address=127.0.0.1:50051

Once this module is imported (`VERL_USE_EXTERNAL_MODULES=adjudge_reranker.trainers.verl_manager`),
also by `source=register name=adjudge`. Needs verl, unlike the rest of the package.
"""

from typing import Any

from verl.experimental.reward_loop.reward_manager import (  # type: ignore[import-not-found]
    register,
)
from verl.experimental.reward_loop.reward_manager.base import (  # type: ignore[import-not-found]
    RewardManagerBase,
)

from adjudge_reranker.aio import AsyncRewardClient
from adjudge_reranker.trainers.one import float_settings, judge_one_async
from adjudge_reranker.trainers.samples import read_sample
from adjudge_reranker.trainers.verl import verl_score


@register("adjudge")
class AdjudgeRewardManager(RewardManagerBase):  # type: ignore[misc]
    """Judges each response to the messages in `raw_prompt`, as verl hands them over.

    Options under `reward.reward_kwargs.adjudge`: address, judge_with_ground_truth, and those of
    `float_settings`.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **_: Any) -> None:
        """`compute_score`, and what verl's own reward model would need, is not used."""
        super().__init__(config, tokenizer, compute_score)
        options = dict(config.reward.get("reward_kwargs", {}).get("adjudge", {}))
        self._client = AsyncRewardClient(options.pop("address", "127.0.0.1:50051"))
        self._with_ground_truth = bool(options.pop("judge_with_ground_truth", False))
        self._settings = float_settings(**options)

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of the last sequence of `data`. Raises RewardError as `on_failure` says."""
        item = data[-1:][0]
        responses = item.batch["responses"]
        length = item.batch["attention_mask"][-responses.shape[-1] :].sum()
        text = await self.loop.run_in_executor(
            None, lambda: self.tokenizer.decode(responses[:length], skip_special_tokens=True)
        )
        truth = item.non_tensor_batch.get("reward_model", {}).get("ground_truth")
        multi_modal = item.non_tensor_batch.get("multi_modal_data") or {}
        sample = read_sample(
            list(item.non_tensor_batch["raw_prompt"]),
            text,
            pictures=multi_modal.get("images"),
            reference=truth if self._with_ground_truth else None,
            strip_thinking=self._settings.strip_thinking,
        )
        score = verl_score(await judge_one_async(self._client, sample, self._settings))
        return {"reward_score": score["score"], "reward_extra_info": score}
