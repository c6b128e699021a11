"""`compute_score` for verl, written against verl 0.9.

reward.custom_reward_function.path=pkg://adjudge_reranker.trainers.verl
reward.custom_reward_function.name=compute_score_async
+reward.custom_reward_function.reward_kwargs.address=127.0.0.1:50051

verl hands such a function neither the prompt nor its pictures, so the data set's `extra_info` has
to hold them. `verl_manager` needs no such preparation: prefer it.

Failures: verl has no place for a missing reward, and NaN spoils the advantages of its whole group.
"""

import math
from collections.abc import Mapping
from typing import Any

from adjudge_reranker.trainers.judging import Judgement, Settings
from adjudge_reranker.trainers.one import (
    async_client_of,
    client_of,
    float_settings,
    judge_one,
    judge_one_async,
)
from adjudge_reranker.trainers.samples import Sample, read_sample
from adjudge_reranker.types import Failure


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    address: str = "127.0.0.1:50051",
    prompt_key: str = "question",
    images_key: str = "images",
    judge_with_ground_truth: bool = False,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **options: Any,
) -> dict[str, float]:
    """The reward as `score`, and the critic's `valid_mass`.

    `extra_info[prompt_key]` is the prompt, a text or chat messages; `extra_info[images_key]` its
    pictures, if there are any. `judge_with_ground_truth` hands `ground_truth` to the critic as the
    reference answer, which its template has to accept. `options` are `float_settings`': template,
    rubric, model, strip_thinking, on_failure ("raise" unless given, "wait", "nan") and
    max_wait_seconds. What verl's own reward model would need is ignored.

    Raises KeyError if `extra_info` has no prompt, and RewardError as `on_failure` says.
    """
    settings = float_settings(**options)
    reference = ground_truth if judge_with_ground_truth else None
    sample = _sample(solution_str, reference, extra_info, prompt_key, images_key, settings)
    return verl_score(judge_one(client_of(address), sample, settings))


async def compute_score_async(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    address: str = "127.0.0.1:50051",
    prompt_key: str = "question",
    images_key: str = "images",
    judge_with_ground_truth: bool = False,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **options: Any,
) -> dict[str, float]:
    """The same as a coroutine, which lets verl have more completions judged at a time."""
    settings = float_settings(**options)
    reference = ground_truth if judge_with_ground_truth else None
    sample = _sample(solution_str, reference, extra_info, prompt_key, images_key, settings)
    return verl_score(await judge_one_async(async_client_of(address), sample, settings))


def verl_score(judgement: Judgement) -> dict[str, float]:
    """With the same keys whatever happened: verl takes those of the first result for all."""
    mass = math.nan if judgement.valid_mass is None else judgement.valid_mass
    return {"score": judgement.value, "valid_mass": mass}


def _sample(
    solution: str,
    reference: Any,
    extra_info: Mapping[str, Any] | None,
    prompt_key: str,
    images_key: str,
    settings: Settings,
) -> Sample | Failure:
    extra_info = extra_info or {}
    if prompt_key not in extra_info:
        raise KeyError(
            f"extra_info has no {prompt_key!r}: put the prompt there, name the key it is under "
            "with reward_kwargs.prompt_key, or use AdjudgeRewardManager, which needs none"
        )
    return read_sample(
        extra_info[prompt_key],
        solution,
        pictures=extra_info.get(images_key),
        reference=reference,
        strip_thinking=settings.strip_thinking,
    )
