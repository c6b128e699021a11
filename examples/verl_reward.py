"""A reward function for verl: `reward.custom_reward_function.path=examples/verl_reward.py`.

verl gives it neither the prompt nor the picture, so the data set's `extra_info` has to hold them:
{"question": "What digit is this?", "images": ["seven.png"]}. For pictures in `raw_prompt`, take the
reward manager instead, which needs no such preparation:

    reward.reward_manager.source=importlib
    reward.reward_manager.name=AdjudgeRewardManager
    reward.reward_manager.module.path=pkg://adjudge_reranker.trainers.verl_manager
    +reward.reward_kwargs.adjudge.address=127.0.0.1:50051
    +reward.reward_kwargs.adjudge.on_failure=wait

Run by itself, it judges one answer. Start `adjudge-server` first.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from adjudge_reranker.trainers.verl import compute_score_async

SERVER = os.environ.get("ADJUDGE_SERVER", "127.0.0.1:50051")


async def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **options: Any
) -> dict[str, float]:
    options = {"address": SERVER, "on_failure": "wait", **options}
    return await compute_score_async(data_source, solution_str, ground_truth, extra_info, **options)


if __name__ == "__main__":
    picture = Path(__file__).parent / "images" / "seven.png"
    row = {"question": "What this image presents?", "images": [str(picture)]}
    print(asyncio.run(compute_score("digits", "This is a handwritten number seven.", "7", row)))
