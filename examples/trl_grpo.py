"""Trains a policy that sees pictures by TRL's GRPO, rewarded by the critic.

Start `adjudge-server` first; needs `pip install trl`, and a GPU for a policy of this size.
"""

import os
from pathlib import Path

from datasets import Dataset, Features, Image, Value
from trl import GRPOConfig, GRPOTrainer

from adjudge_reranker.trainers import AdjudgeReward

POLICY = os.environ.get("POLICY", "Qwen/Qwen2.5-VL-3B-Instruct")

pictures = [str(path) for path in (Path(__file__).parent / "labelled").glob("*.png")]
prompt = [{"role": "user", "content": "What this image presents?"}]
rows = [{"prompt": prompt, "image": picture} for picture in pictures]
features = Features(
    {"prompt": [{"role": Value("string"), "content": Value("string")}], "image": Image()}
)

trainer = GRPOTrainer(
    model=POLICY,
    # Waits for a server that is down, up to ten minutes a batch, so that a restart costs no step.
    reward_funcs=AdjudgeReward(
        os.environ.get("ADJUDGE_SERVER", "127.0.0.1:50051"),
        on_failure="wait",
        max_wait_seconds=600,
    ),
    args=GRPOConfig(
        output_dir="grpo", num_generations=8, max_completion_length=128, logging_steps=1
    ),
    train_dataset=Dataset.from_list(rows, features=features),
)
trainer.train()
