"""From a file of prompts and candidates to a file of pairs."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Final

from adjudge_reranker.client import RewardClient
from adjudge_reranker.errors import ServerUnavailable
from adjudge_reranker.in_order import in_order
from adjudge_reranker.mining.journal import Journal
from adjudge_reranker.mining.judging import Failed, Judge, Mined, Outcome
from adjudge_reranker.mining.plan import Plan
from adjudge_reranker.mining.prompts import PromptFile
from adjudge_reranker.mining.rows import Shape

_CHUNK: Final = 256
"""Prompts in memory, and those between two syncs to the disk."""


def mine(
    client: RewardClient,
    source: PromptFile,
    plan: Plan,
    journal: Journal,
    *,
    any_critic: bool = False,
) -> Iterator[Outcome]:
    """Judges every prompt that is not settled, and writes what comes of it, in the input's order.

    Yields each outcome when it is on file. A server that stays unavailable for a call's whole
    timeout ends the run, because every other prompt would wait as long; the last outcome is that
    failure then, and nothing after it is on file. If the caller stops early, `client` is closed to
    end the calls under way.

    Raises CriticChanged if the critic is replaced meanwhile, unless `any_critic`, and OSError if
    nothing can be written. What is on file stays good in any case.
    """
    judge = Judge(client, plan, any_critic=any_critic)
    shape = Shape(source)
    left = (one for one in source.prompts() if not journal.is_settled(one.number))
    while chunk := list(islice(left, _CHUNK)):
        with closing(in_order(judge.judge, chunk, client.close)) as results:
            for _, outcome in results:
                journal.write(outcome, shape.rows(outcome) if isinstance(outcome, Mined) else ())
                yield outcome
                if isinstance(outcome, Failed) and isinstance(outcome.error, ServerUnavailable):
                    journal.sync()
                    return
        journal.sync()
