"""Preference mining: prompts and their candidates, scored and paired for DPO.

    source = PromptFile.check(Path("candidates.jsonl"))
    with RewardClient("127.0.0.1:50051") as client:
        plan = Plan.make(client.model(), Options(min_margin=5, verify=True))
        with Journal.open(Path("pairs.jsonl"), source, plan) as journal:
            for outcome in mine(client, source, plan, journal):
                print(outcome)

Where candidates are still to be generated, `generate_candidates` does that first.

`pairing` is pure, `prompts` reads, `judging` asks, `rows` spells pairs as TRL wants them and
`journal` keeps them, so that an interrupted run goes on where it was.
"""

from adjudge_reranker.mining.candidates_file import CandidatesFile
from adjudge_reranker.mining.generating import (
    Generated,
    NotGenerated,
    Reason,
    Wanted,
    generate_candidates,
)
from adjudge_reranker.mining.journal import CannotResume, Journal, Tally
from adjudge_reranker.mining.judging import Failed, Mined, Outcome, Skipped
from adjudge_reranker.mining.pairing import (
    Contender,
    NoPair,
    Pair,
    Pairing,
    choose_pairs,
    distinct,
)
from adjudge_reranker.mining.plan import CannotMine, CriticChanged, Options, Plan
from adjudge_reranker.mining.prompts import Prompt, PromptFile
from adjudge_reranker.mining.run import mine

__all__ = [
    "CandidatesFile",
    "CannotMine",
    "CannotResume",
    "Contender",
    "CriticChanged",
    "Failed",
    "Generated",
    "Journal",
    "Mined",
    "NoPair",
    "NotGenerated",
    "Options",
    "Outcome",
    "Pair",
    "Pairing",
    "Plan",
    "Prompt",
    "PromptFile",
    "Reason",
    "Skipped",
    "Tally",
    "Wanted",
    "choose_pairs",
    "distinct",
    "generate_candidates",
    "mine",
]
