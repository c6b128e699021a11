"""Best-of-N while generating: candidates are scored as they finish, until the winner is clear.

from adjudge_reranker import RewardClient
from adjudge_reranker.generation import TransformersPolicy, generate_best_of_n

policy = TransformersPolicy(model, processor, max_new_tokens=256)
with RewardClient("127.0.0.1:50051") as client:
    print(generate_best_of_n(client, policy, [picture, "What is this?"], 16).best.candidate)

Loads neither torch nor transformers nor openai before a policy of theirs is used.
"""

from adjudge_reranker.generation.best import generate_best_of_n
from adjudge_reranker.generation.best_async import async_generate_best_of_n
from adjudge_reranker.generation.errors import (
    GenerationError,
    PolicyFault,
    PolicyRefused,
    PolicyTimeout,
    PolicyUnavailable,
)
from adjudge_reranker.generation.openai_policy import OpenAIPolicy
from adjudge_reranker.generation.samples import AsyncPolicy, Finish, Order, Policy, Sample
from adjudge_reranker.generation.selection import Attempt, Selection, StopReason, Winner
from adjudge_reranker.generation.stopping import (
    ByRank,
    Calibrated,
    IfNormal,
    StoppingRule,
    calibrate,
)
from adjudge_reranker.generation.transformers_policy import TransformersPolicy

__all__ = [
    "AsyncPolicy",
    "Attempt",
    "ByRank",
    "Calibrated",
    "Finish",
    "GenerationError",
    "IfNormal",
    "OpenAIPolicy",
    "Order",
    "Policy",
    "PolicyFault",
    "PolicyRefused",
    "PolicyTimeout",
    "PolicyUnavailable",
    "Sample",
    "Selection",
    "StopReason",
    "StoppingRule",
    "TransformersPolicy",
    "Winner",
    "async_generate_best_of_n",
    "calibrate",
    "generate_best_of_n",
]
