"""The client of Adjudge: rewards, comparisons, critiques and rankings of candidate responses.

from adjudge_reranker import RewardClient, best_of_n

with RewardClient("127.0.0.1:50051") as client:
    print(best_of_n(client, "What is 2 + 2?", ["5", "4", "It is 4."]).best.candidate)

Loads neither torch nor transformers, so that it fits beside any trainer's pins.
"""

from adjudge_reranker.access import Tls
from adjudge_reranker.admin import AdminClient, LoadedWeights
from adjudge_reranker.aio import AsyncRewardClient
from adjudge_reranker.bracket import Knockout, KnockoutEntry, Round
from adjudge_reranker.bradley_terry import BradleyTerry, Difference, fit_bradley_terry
from adjudge_reranker.client import RewardClient
from adjudge_reranker.content import Candidate, CandidateLike, Message, Part, PromptLike, Role
from adjudge_reranker.contest import ComparedPair
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
from adjudge_reranker.model_info import (
    Capability,
    Combination,
    EnsembleInfo,
    EnsembleMember,
    Limits,
    ModelInfo,
    Template,
    TemplateKind,
)
from adjudge_reranker.pictures import Image, ImageLike, RawPixels, to_image
from adjudge_reranker.playoff import ScoredThenCompared
from adjudge_reranker.ranking import (
    AsyncComparer,
    AsyncScorer,
    Comparer,
    RankedCandidate,
    Ranking,
    Scorer,
    async_best_of_n,
    best_of_n,
    rank,
)
from adjudge_reranker.retry import NOT_GIVEN, NotGiven, RetryPolicy, Timeout
from adjudge_reranker.standings import RoundRobin, Standing
from adjudge_reranker.tournaments import (
    async_knockout,
    async_round_robin,
    async_score_then_compare,
    knockout,
    round_robin,
    score_then_compare,
)
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
    MemberProvenance,
    MemberReward,
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
    "AsyncComparer",
    "AsyncRewardClient",
    "AsyncScorer",
    "BradleyTerry",
    "Candidate",
    "CandidateLike",
    "Capability",
    "Combination",
    "CompareOutcome",
    "CompareResult",
    "ComparedPair",
    "Comparer",
    "Comparison",
    "CriticUnreadable",
    "CritiqueEnd",
    "CritiqueEvent",
    "CritiqueText",
    "CritiqueVerdict",
    "DeadlineExceeded",
    "Difference",
    "EndReason",
    "EnsembleInfo",
    "EnsembleMember",
    "ErrorReason",
    "Failure",
    "Image",
    "ImageLike",
    "Knockout",
    "KnockoutEntry",
    "Limits",
    "LoadedWeights",
    "MemberProvenance",
    "MemberReward",
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
    "Round",
    "RoundRobin",
    "ScoreOutcome",
    "ScoreResult",
    "ScoredThenCompared",
    "Scorer",
    "ServerFault",
    "ServerUnavailable",
    "Standing",
    "Template",
    "TemplateKind",
    "Timeout",
    "Tls",
    "async_best_of_n",
    "async_knockout",
    "async_round_robin",
    "async_score_then_compare",
    "best_of_n",
    "fit_bradley_terry",
    "knockout",
    "rank",
    "round_robin",
    "score_then_compare",
    "to_image",
]
