"""The client of Adjudge: rewards, comparisons, critiques and rankings of candidate responses.

from adjudge_reranker import RewardClient, best_of_n

with RewardClient("127.0.0.1:50051") as client:
    print(best_of_n(client, "What is 2 + 2?", ["5", "4", "It is 4."]).best.candidate)

Loads neither torch nor transformers, so that it fits beside any trainer's pins.
"""

from adjudge_reranker.admin import AdminClient, LoadedWeights
from adjudge_reranker.aio import AsyncRewardClient
from adjudge_reranker.client import RewardClient
from adjudge_reranker.content import Candidate, CandidateLike, Message, Part, PromptLike, Role
from adjudge_reranker.errors import (
    CriticUnreadable,
    DeadlineExceeded,
    ErrorReason,
    NothingJudged,
    RequestRefused,
    RewardError,
    ServerFault,
    ServerUnavailable,
)
from adjudge_reranker.model_info import Capability, Limits, ModelInfo, Template, TemplateKind
from adjudge_reranker.pictures import Image, ImageLike, RawPixels, to_image
from adjudge_reranker.ranking import (
    Comparer,
    RankedCandidate,
    Ranking,
    Scorer,
    best_of_n,
    rank,
)
from adjudge_reranker.retry import NOT_GIVEN, NotGiven, RetryPolicy, Timeout
from adjudge_reranker.types import (
    AnswerProbability,
    CompareOutcome,
    CompareResult,
    Comparison,
    CritiqueEnd,
    CritiqueEvent,
    CritiqueText,
    CritiqueVerdict,
    EndReason,
    Failure,
    OrderPolicy,
    Provenance,
    Readout,
    Reward,
    ScoreOutcome,
    ScoreResult,
)

__all__ = [
    "NOT_GIVEN",
    "AdminClient",
    "AnswerProbability",
    "AsyncRewardClient",
    "Candidate",
    "CandidateLike",
    "Capability",
    "CompareOutcome",
    "CompareResult",
    "Comparer",
    "Comparison",
    "CriticUnreadable",
    "CritiqueEnd",
    "CritiqueEvent",
    "CritiqueText",
    "CritiqueVerdict",
    "DeadlineExceeded",
    "EndReason",
    "ErrorReason",
    "Failure",
    "Image",
    "ImageLike",
    "Limits",
    "LoadedWeights",
    "Message",
    "ModelInfo",
    "NotGiven",
    "NothingJudged",
    "OrderPolicy",
    "Part",
    "PromptLike",
    "Provenance",
    "RankedCandidate",
    "Ranking",
    "RawPixels",
    "Readout",
    "RequestRefused",
    "RetryPolicy",
    "Reward",
    "RewardClient",
    "RewardError",
    "Role",
    "ScoreOutcome",
    "ScoreResult",
    "Scorer",
    "ServerFault",
    "ServerUnavailable",
    "Template",
    "TemplateKind",
    "Timeout",
    "best_of_n",
    "rank",
    "to_image",
]
