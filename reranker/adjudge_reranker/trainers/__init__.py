"""Rewards for trainers: TRL, verl and OpenRLHF.

`trl` has the callables; `verl` and `openrlhf` are loaded by their trainers, from a file of yours.
Nothing here loads a trainer, but for `verl_manager`, which extends one.
"""

from adjudge_reranker.trainers.failures import OnFailure
from adjudge_reranker.trainers.trl import (
    AdjudgeGroupPreference,
    AdjudgeReward,
    AsyncAdjudgeGroupPreference,
    AsyncAdjudgeReward,
)

__all__ = [
    "AdjudgeGroupPreference",
    "AdjudgeReward",
    "AsyncAdjudgeGroupPreference",
    "AsyncAdjudgeReward",
    "OnFailure",
]
