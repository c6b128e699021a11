"""From a file of prompts to a file of candidates: what mining begins with.

source = PromptFile.check(Path("prompts.jsonl"), with_candidates=False)
policy = OpenAIPolicy("my-model", base_url="http://127.0.0.1:8000/v1", max_in_flight=1)
wanted = Wanted(num_candidates=8)
with CandidatesFile.open(Path("candidates.jsonl"), source, {"model": "my-model"}) as output:
    async for outcome in generate_candidates(policy, source, wanted, output):
        print(outcome)
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Final, TypeAlias

import PIL.Image

from adjudge_reranker.generation.errors import (
    GenerationError,
    PolicyRefused,
    PolicyTimeout,
    PolicyUnavailable,
)
from adjudge_reranker.generation.samples import AsyncPolicy, Finish, Sample
from adjudge_reranker.mining.candidates_file import CandidatesFile
from adjudge_reranker.mining.prompts import Prompt, PromptFile
from adjudge_reranker.mining.showing import CannotShow, shown

_MIN_CANDIDATES: Final = 2
"""Fewer make no pair."""
_MAX_UNAVAILABLE: Final = 8
"""Prompts in a row, each after the policy's own retries: then it is not a passing trouble."""
_CONCERNS_ALL: Final = frozenset({401, 403, 404})
"""Refusals of the key or of the model's name, not of a prompt."""
_BAD_PICTURE: Final = (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError)
"""What PIL raises; a broken PNG is a SyntaxError to it."""


class Reason(StrEnum):
    """Why an answer is no candidate, or why a prompt has none."""

    TRUNCATED = "TRUNCATED"
    """Cut off at its limit of tokens."""
    FILTERED = "FILTERED"
    """A filter of the endpoint left something out."""
    NOT_UNICODE = "NOT_UNICODE"
    """It has a lone surrogate, and could not be sent to a critic."""
    REFUSED = "REFUSED"
    UNAVAILABLE = "UNAVAILABLE"
    TIMEOUT = "TIMEOUT"
    FAULT = "FAULT"
    """The endpoint's answer held no text."""
    TOO_FEW_CANDIDATES = "TOO_FEW_CANDIDATES"
    """Of the prompt: the others were left out."""
    UNREADABLE_IMAGE = "UNREADABLE_IMAGE"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    """It does not begin as a picture does, and was not sent: it may be a file that is not for
    others to see, whoever wrote the input."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    num_candidates: int
    """Of each prompt; at least 2."""
    allow_truncated: bool = False
    """Whether an answer that was cut off at its limit of tokens counts."""
    prompts_in_flight: int = 4
    """At least 1."""

    def __post_init__(self) -> None:
        if self.num_candidates < _MIN_CANDIDATES:
            raise ValueError(f"num_candidates must be at least 2, not {self.num_candidates}")
        if self.prompts_in_flight < 1:
            raise ValueError("prompts_in_flight must be at least 1")


@dataclass(frozen=True, slots=True)
class Generated:
    """A prompt whose candidates are on file."""

    prompt: Prompt
    candidates: tuple[str, ...]
    """At least 2, in the order of asking; some may be equal."""
    left_out: Mapping[Reason, int]
    """Answers that are no candidates."""
    error: GenerationError | None = None
    """The first of those that cost an answer."""


@dataclass(frozen=True, slots=True)
class NotGenerated:
    """A prompt of which nothing is on file; the next run asks again."""

    prompt: Prompt
    reason: Reason
    left_out: Mapping[Reason, int] = field(default_factory=dict)
    error: Exception | None = None
    """None if all answers that were left out were whole ones."""

    @property
    def is_unavailable(self) -> bool:
        """Whether the policy, rather than the prompt, seems to be to blame."""
        return self.reason in (Reason.UNAVAILABLE, Reason.TIMEOUT)

    @property
    def concerns_all(self) -> bool:
        """Whether every other prompt would be refused as well."""
        return isinstance(self.error, PolicyRefused) and self.error.status in _CONCERNS_ALL


Outcome: TypeAlias = Generated | NotGenerated


async def generate_candidates(
    policy: AsyncPolicy[str], source: PromptFile, wanted: Wanted, output: CandidatesFile
) -> AsyncGenerator[Outcome, None]:
    """Asks `policy` about every prompt that is not in `output`, and writes its answers there.

    Yields each outcome when it is on file, in the order in which prompts are through, so that
    nothing waits for the slowest. A policy that 8 prompts in a row find unavailable, or that
    refuses the key or the model's name, ends the run: the last outcome is that failure then. If
    the caller stops early, requests under way are cancelled.

    Raises BadRecord if the input is not what it was, OSError if nothing can be written, and what
    the policy raises. What is on file stays good in any case.
    """
    left = (one for one in source.prompts() if not output.has(one))
    running: set[asyncio.Task[Outcome]] = set()
    num_unavailable = 0
    try:
        while True:
            for prompt in islice(left, wanted.prompts_in_flight - len(running)):
                running.add(asyncio.create_task(_generate(policy, prompt, wanted)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            outcomes = [task.result() for task in done]
            for outcome in outcomes:  # all of them, before the caller can stop
                if isinstance(outcome, Generated):
                    output.write(outcome.prompt, outcome.candidates)
            for outcome in outcomes:
                yield outcome
                lost = isinstance(outcome, NotGenerated) and outcome.is_unavailable
                num_unavailable = num_unavailable + 1 if lost else 0
                hopeless = isinstance(outcome, NotGenerated) and outcome.concerns_all
                if hopeless or num_unavailable >= _MAX_UNAVAILABLE:
                    return
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class _Order:
    """All that are wanted, from 0."""

    is_over = False

    def __init__(self, num_candidates: int) -> None:
        self.num_wanted = num_candidates
        self._num_begun = 0

    def begin(self, count: int) -> range:
        if count > self.num_wanted:
            raise ValueError(f"{count} are not wanted, {self.num_wanted} are")
        self.num_wanted -= count
        self._num_begun += count
        return range(self._num_begun - count, self._num_begun)


async def _generate(policy: AsyncPolicy[str], prompt: Prompt, wanted: Wanted) -> Outcome:
    try:
        messages, _ = shown(prompt)
    except CannotShow as error:
        return NotGenerated(prompt, Reason(error.reason), error=error.error)
    samples: list[Sample[str]] = []
    try:
        order = _Order(wanted.num_candidates)
        async with aclosing(policy.samples(messages, order)) as batches:
            async for batch in batches:
                samples.extend(batch)
    except _BAD_PICTURE as error:
        if not prompt.images:
            raise
        return NotGenerated(prompt, Reason.UNREADABLE_IMAGE, error=error)
    return _outcome(prompt, sorted(samples, key=lambda sample: sample.index), wanted)


def _outcome(prompt: Prompt, samples: Sequence[Sample[str]], wanted: Wanted) -> Outcome:
    candidates: list[str] = []
    left_out: Counter[Reason] = Counter()
    errors: list[GenerationError] = []
    for sample in samples:
        if isinstance(sample.content, GenerationError):
            errors.append(sample.content)
            left_out[_reason_of(sample.content)] += 1
        elif (reason := _unfit(sample.content, sample.finish, wanted)) is not None:
            left_out[reason] += 1
        else:
            candidates.append(sample.content)
    refusals = [error for error in errors if isinstance(error, PolicyRefused)]
    if len(candidates) >= _MIN_CANDIDATES and not refusals:
        return Generated(prompt, tuple(candidates), left_out, errors[0] if errors else None)
    blamed = (refusals or errors or [None])[0]
    reason = Reason.TOO_FEW_CANDIDATES if blamed is None else _reason_of(blamed)
    return NotGenerated(prompt, reason, left_out, blamed)


def _unfit(text: str, finish: Finish, wanted: Wanted) -> Reason | None:
    if finish is Finish.FILTERED:
        return Reason.FILTERED
    if finish is Finish.LENGTH and not wanted.allow_truncated:
        return Reason.TRUNCATED
    try:
        text.encode()
    except UnicodeEncodeError:
        return Reason.NOT_UNICODE  # and mining would refuse the whole file for its sake
    return None


def _reason_of(error: GenerationError) -> Reason:
    if isinstance(error, PolicyRefused):
        return Reason.REFUSED
    if isinstance(error, PolicyUnavailable):
        return Reason.UNAVAILABLE
    if isinstance(error, PolicyTimeout):
        return Reason.TIMEOUT
    return Reason.FAULT
