"""Puts one prompt before the critic: its candidates scored, paired, and perhaps compared."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from adjudge_reranker.client import RewardClient
from adjudge_reranker.content import Message
from adjudge_reranker.errors import ErrorReason, RewardError, is_of_another_model
from adjudge_reranker.evaluation.judge import reason_of
from adjudge_reranker.mining.pairing import Contender, NoPair, Pair, choose_pairs, distinct
from adjudge_reranker.mining.plan import CriticChanged, Plan
from adjudge_reranker.mining.prompts import Prompt, canonical
from adjudge_reranker.mining.showing import CannotShow, shown
from adjudge_reranker.pictures import Image
from adjudge_reranker.types import (
    CompareOutcome,
    CompareResult,
    Failure,
    OrderPolicy,
    Provenance,
    Readout,
    Reward,
    ScoreOutcome,
    ScoreResult,
)

_LASTING: Final = frozenset(
    {
        ErrorReason.INPUT_TOO_LONG,
        ErrorReason.UNSUPPORTED_CONTENT,
        ErrorReason.INVALID_REQUEST,
        ErrorReason.LIMIT_EXCEEDED,
        ErrorReason.OFF_FORMAT,
        ErrorReason.VERDICT_NOT_FOUND,
    }
)
"""What befalls a candidate however often it is asked about."""


@dataclass(frozen=True, slots=True)
class CriticUsed:
    """Who gave the rewards of a prompt; only what is the same each time it is asked."""

    model: str
    model_fingerprint: str
    weights_epoch: int
    template: str
    template_hash: str
    server_version: str
    readout: Readout = Readout.DIRECT

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ConfirmedPair:
    """A pair to be written."""

    chosen: int
    rejected: int
    chosen_reward: float
    rejected_reward: float
    margin: float
    comparison: dict[str, Any] | None
    """What the comparison said, chosen one first; None unless pairs are verified."""


@dataclass(frozen=True, slots=True)
class FailedCandidate:
    """A candidate that no asking will give a reward; it is in no pair."""

    index: int
    error: RewardError


@dataclass(frozen=True, slots=True)
class Mined:
    """A prompt that gave pairs."""

    prompt: Prompt
    prompt_digest: str
    """SHA-256, hex, of the prompt and its pictures' digests."""
    pairs: tuple[ConfirmedPair, ...]
    """At least one."""
    critic: CriticUsed
    failed: tuple[FailedCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A prompt whose candidates make no pair."""

    prompt: Prompt
    reason: NoPair
    failed: tuple[FailedCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A prompt about which nothing is known; it is asked about again when mining goes on."""

    prompt: Prompt
    reason: str
    """An ErrorReason, the name of a gRPC code, UNREADABLE_IMAGE or NOT_AN_IMAGE."""
    error: Exception


Outcome: TypeAlias = Mined | Skipped | Failed


class Judge:
    """Safe to share between threads."""

    def __init__(self, client: RewardClient, plan: Plan, *, any_critic: bool = False) -> None:
        """`any_critic`: whether it may change meanwhile."""
        self._client = client
        self._plan = plan
        self._any_critic = any_critic

    def judge(self, prompt: Prompt) -> Outcome:
        """Raises CriticChanged if the critic is not the plan's, unless any will do; and if it is
        another model, by name and weights, than this client's results before."""
        try:
            messages, pictures = shown(prompt)
        except CannotShow as error:
            return Failed(prompt, error.reason, error.error)
        try:
            return self._judge(prompt, messages, _digest(prompt, pictures))
        except RewardError as error:
            if error.reason == ErrorReason.WRONG_EPOCH or is_of_another_model(error):
                raise CriticChanged(str(error)) from error
            return Failed(prompt, reason_of(error), error)

    def _judge(self, prompt: Prompt, messages: Sequence[Message], digest: str) -> Outcome:
        texts = prompt.texts
        asked = distinct(texts)
        result = self._client.score(
            messages,
            [texts[index] for index in asked],
            template=self._plan.question.pointwise_template,
            rubric=self._plan.question.rubric,
            model=self._plan.question.model,
            expected_epoch=self._expected_epoch(),
        )
        self._check(result)
        outcomes = dict(zip(asked, result.outcomes, strict=True))
        failed = tuple(
            FailedCandidate(index, outcome.error)
            for index, outcome in outcomes.items()
            if isinstance(outcome, Failure)
        )
        passing = [one.error for one in failed if one.error.reason not in _LASTING]
        if failed and (passing or len(asked) - len(failed) < 2):
            # With what is missing now the pairs might be others, and would be written for good.
            error = (passing or [failed[0].error])[0]
            return Failed(prompt, reason_of(error), error)
        pairs = choose_pairs(
            [self._contender(i, texts[i], outcome) for i, outcome in outcomes.items()],
            self._plan.options.pairing,
            min_margin=self._plan.options.min_margin,
            rng=random.Random(f"{self._plan.options.seed} {prompt.number}"),
        )
        if isinstance(pairs, NoPair):
            return Skipped(prompt, pairs, failed)
        comparisons = self._compare(messages, texts, pairs)
        confirmed = []
        for pair, comparison in zip(pairs, comparisons, strict=True):
            if isinstance(comparison, Failure):
                return Failed(prompt, reason_of(comparison.error), comparison.error)
            if comparison is None or agrees(comparison):
                confirmed.append(self._confirmed(pair, outcomes, comparison))
        if not confirmed:
            return Skipped(prompt, NoPair.NOT_CONFIRMED, failed)
        return Mined(prompt, digest, tuple(confirmed), self._used(result.provenance), failed)

    def _compare(
        self, messages: Sequence[Message], texts: Sequence[str], pairs: Sequence[Pair]
    ) -> Sequence[CompareOutcome | None]:
        if not self._plan.options.verify:
            return [None] * len(pairs)
        result = self._client.compare(
            messages,
            texts,
            [(pair.chosen, pair.rejected) for pair in pairs],
            template=self._plan.question.pairwise_template,
            rubric=self._plan.question.rubric,
            model=self._plan.question.model,
            expected_epoch=self._expected_epoch(),
            order_policy=OrderPolicy.BOTH,
        )
        self._check(result)
        return result.outcomes

    def _contender(self, index: int, text: str, outcome: ScoreOutcome) -> Contender:
        if isinstance(outcome, Failure):
            return Contender(index, text, None)
        return Contender(index, text, outcome.reward, reward_noise(outcome, self._plan.noise_floor))

    def _confirmed(
        self, pair: Pair, outcomes: dict[int, ScoreOutcome], comparison: CompareOutcome | None
    ) -> ConfirmedPair:
        chosen, rejected = outcomes[pair.chosen], outcomes[pair.rejected]
        assert isinstance(chosen, Reward) and isinstance(rejected, Reward)
        record = None
        if comparison is not None and not isinstance(comparison, Failure):
            named = self._plan.critic["templates"][-1]
            record = {
                "template": named["name"],
                "template_hash": named["hash"],
                "margin": comparison.margin,
                "preference": comparison.preference,
                "position_bias": comparison.position_bias,
            }
        return ConfirmedPair(
            pair.chosen, pair.rejected, chosen.reward, rejected.reward, pair.margin, record
        )

    def _expected_epoch(self) -> int | None:
        return None if self._any_critic else self._plan.critic["weights_epoch"]

    def _check(self, result: ScoreResult | CompareResult) -> None:
        for error in result.failures:  # one of several calls may have come too late
            if error.reason == ErrorReason.WRONG_EPOCH:
                raise error
        fingerprint = result.provenance.model_fingerprint
        expected = self._plan.critic["model_fingerprint"]
        if fingerprint != expected and not self._any_critic:
            raise CriticChanged(f"the model's fingerprint is {fingerprint}, it was {expected}")

    def _used(self, provenance: Provenance) -> CriticUsed:
        return CriticUsed(
            provenance.model,
            provenance.model_fingerprint,
            provenance.weights_epoch,
            provenance.template,
            provenance.template_hash,
            self._plan.server_version,
        )


def reward_noise(reward: Reward, noise_floor: float) -> float:
    """By how much a reward may be off, in its unit, if margins may be by `noise_floor` nats.

    Of an expected score: log-probabilities that are each off by at most d move it by at most
    d * standard deviation, to first order (Cauchy-Schwarz on Cov(score, shift)), and the floor is
    that of a difference of two, 2 d. Log-odds and scalar rewards are as noisy as margins.
    """
    if reward.standard_deviation is None:
        return noise_floor
    return reward.standard_deviation * noise_floor / 2


def agrees(comparison: CompareOutcome) -> bool:
    """Whether the first of the pair won in both orders, and by more than noise.

    With the margin M = (m(a,b) - m(b,a)) / 2 and the bias B = (m(a,b) + m(b,a)) / 2 the two orders
    say M + B and, turned, M - B: both are positive if and only if M > |B|.
    """
    if isinstance(comparison, Failure) or comparison.position_bias is None:
        return False
    tie, first = comparison.tie_probability, comparison.first_probability
    calls_it_a_tie = tie is not None and first is not None and tie >= first
    return (
        comparison.margin > abs(comparison.position_bias)
        and comparison.preference > 0.5
        and not comparison.within_noise
        and not calls_it_a_tie
    )


def _digest(prompt: Prompt, pictures: Sequence[Image]) -> str:
    digests = [picture.wire_digest.hex() for picture in pictures]
    return hashlib.sha256(canonical([prompt.prompt, digests])).hexdigest()
