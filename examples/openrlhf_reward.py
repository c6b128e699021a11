"""A reward function for OpenRLHF: `--reward.remote_url examples/openrlhf_reward.py`.

OpenRLHF gives it no pictures; a label can carry them: {"prompt": "What digit is this?",
"images": ["seven.png"]}, as a mapping or as JSON.

Run by itself, it judges one answer. Start `adjudge-server` first.
"""

import json
import os
from pathlib import Path

from adjudge_reranker.trainers.openrlhf import OpenRLHFReward

reward_func = OpenRLHFReward(os.environ.get("ADJUDGE_SERVER", "127.0.0.1:50051"))

if __name__ == "__main__":
    picture = Path(__file__).parent / "images" / "seven.png"
    label = {"prompt": "What this image presents?", "images": [str(picture)]}
    prompt = "<|im_start|>user\nWhat this image presents?<|im_end|>\n<|im_start|>assistant\n"
    query = f"{prompt}This is a handwritten number seven.<|im_end|>"
    print(reward_func([query], [prompt], [json.dumps(label)]))
