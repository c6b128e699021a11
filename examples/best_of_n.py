"""Chooses the best of several answers about a picture. Start `adjudge-server` first."""

import os
from pathlib import Path

from adjudge_reranker import RewardClient, best_of_n

picture = Path(__file__).parent / "images" / "seven.png"
answers = [
    "The image is a black and white sketch of a line that appears to be in the shape of a cross.",
    "This is a handwritten number seven.",
    "It might be a one, or perhaps a seven.",
]

with RewardClient(os.environ.get("ADJUDGE_SERVER", "127.0.0.1:50051")) as client:
    ranking = best_of_n(client, [picture, "What this image presents?"], answers)

for entry in ranking.entries:
    print(entry.reward, entry.candidate)
