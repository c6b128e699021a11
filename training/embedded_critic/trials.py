"""What is asked of a critic under test, and the figures that come of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adjudge_server.images import Picture
from embedded_critic import prompts
from embedded_critic.grammar import Response, any_category, renamed, respond
from embedded_critic.judging import Judge
from embedded_critic.measures import Compared, Scored, share
from embedded_critic.rubric import TIE_BELOW, Truth
from embedded_critic.tasks import same_wording_pair
from embedded_critic.texts import Wording

SEED = 7
RESPONSES = 8  # scored per picture
PAIRS = 5  # any two, per picture
SAME_WORDS = 3  # pairs that only the digit decides, per picture


@dataclass(frozen=True, slots=True)
class Sample:
    """A held-out picture and what it shows."""

    picture: Picture
    truth: Truth


@dataclass(slots=True)
class Tally:
    """What has been read so far."""

    scored: Scored = field(default_factory=Scored)
    by_category: dict[str, Scored] = field(default_factory=dict)
    any_two: Compared = field(default_factory=Compared)
    digit_decides: Compared = field(default_factory=Compared)
    stranger: Compared = field(default_factory=Compared)
    stranger_scored: Scored = field(default_factory=Scored)
    blind: Compared = field(default_factory=Compared)
    blind_scored: Scored = field(default_factory=Scored)
    two_pictures: list[bool] = field(default_factory=list)
    two_pictures_pairwise: list[bool] = field(default_factory=list)


def difference(a: Response, b: Response, truth: Truth) -> int:
    """Of their scores; 0 where they are equally good."""
    by = a.score(truth) - b.score(truth)
    return by if abs(by) >= TIE_BELOW else 0


def question_of(wording: Wording, rng: np.random.Generator) -> str:
    choices = prompts.QUESTIONS if wording is Wording.TRAINED else prompts.HELD_OUT_QUESTIONS
    return choices[rng.integers(len(choices))]


def measure(judge: Judge, samples: Sequence[Sample], wording: Wording) -> dict[str, Any]:
    """Every figure for one set of pictures and one set of phrasings."""
    readings_before, off_before = judge.readings, judge.off_format
    rng = np.random.default_rng([SEED, 11, wording is Wording.TRAINED])
    tally = Tally()
    for index, sample in enumerate(samples):
        question = question_of(wording, rng)
        other = _other_digit(samples, index)
        _score(judge, sample, other, question, wording, rng, tally)
        pairs = _compare(judge, sample, other, question, wording, rng, tally)
        # The same pairs under a picture that shows neither digit named: nothing to go by.
        named = {d for pair in pairs for response in pair for d in response.named}
        _confuse(judge, _stranger(samples, index, named), question, pairs, tally)
        _exchange(judge, sample, other, question, pairs[0][0], tally)
    readings = judge.readings - readings_before
    both = Compared()
    for part in (tally.any_two, tally.digit_decides):
        both.add(part.differences, part.readings)
    return {
        "pointwise": tally.scored.summary(),
        "pairwise": both.decided(),
        "pairwise_any_two": tally.any_two.decided(),
        "pairwise_digit_decides": tally.digit_decides.decided(),
        "three_way": tally.any_two.three_way(),
        "preference": tally.any_two.calibration(),
        "same_text_two_images": {
            "n": len(tally.two_pictures),
            "pointwise": share(tally.two_pictures),
            "pairwise": share(tally.two_pictures_pairwise),
        },
        "wrong_image_control": {
            **tally.stranger.decided(),
            "pearson": tally.stranger_scored.summary()["pearson"],
        },
        "blind": {
            **tally.blind.decided(),
            "pearson": tally.blind_scored.summary()["pearson"],
            "spearman": tally.blind_scored.summary()["spearman"],
        },
        "off_format": {"n": readings, "share": (judge.off_format - off_before) / readings},
        "by_category": {
            name: {
                "n": len(part.scored),
                "mean_absolute_error": float(
                    np.mean(np.abs(np.subtract(part.expected, part.scored)))
                ),
            }
            for name, part in sorted(tally.by_category.items())
        },
    }


def _score(
    judge: Judge,
    sample: Sample,
    other: Sample,
    question: str,
    wording: Wording,
    rng: np.random.Generator,
    tally: Tally,
) -> None:
    """Under its own picture, and under another: what the text alone gives away."""
    truth = sample.truth
    drawn = [
        respond(any_category(rng, wording), truth, question, rng, wording=wording)
        for _ in range(RESPONSES)
    ]
    texts = [r.text for r in drawn]
    worths = [r.score(truth) for r in drawn]
    scores = judge.scores(sample.picture, question, texts)
    tally.blind_scored.expected += worths
    tally.blind_scored.scored += judge.scores(other.picture, question, texts)
    for response, worth, score in zip(drawn, worths, scores, strict=True):
        for part in (tally.scored, tally.by_category.setdefault(response.category.name, Scored())):
            part.expected.append(worth)
            part.scored.append(score)


def _compare(
    judge: Judge,
    sample: Sample,
    other: Sample,
    question: str,
    wording: Wording,
    rng: np.random.Generator,
    tally: Tally,
) -> list[tuple[Response, Response]]:
    """Returns the pairs that only the digit decides, the right one first."""
    truth = sample.truth

    def draw() -> Response:
        return respond(any_category(rng, wording), truth, question, rng, wording=wording)

    any_two = [(draw(), draw()) for _ in range(PAIRS)]
    same = [same_wording_pair(truth, question, rng, wording=wording) for _ in range(SAME_WORDS)]
    texts = [(a.text, b.text) for a, b in [*any_two, *same]]
    gaps = [difference(a, b, truth) for a, b in [*any_two, *same]]
    readings = judge.comparisons(sample.picture, question, texts)
    tally.any_two.add(gaps[:PAIRS], readings[:PAIRS])
    tally.digit_decides.add(gaps[PAIRS:], readings[PAIRS:])
    tally.blind.add(gaps[:PAIRS], judge.comparisons(other.picture, question, texts[:PAIRS]))
    return same


def _confuse(
    judge: Judge,
    stranger: Sample,
    question: str,
    pairs: Sequence[tuple[Response, Response]],
    tally: Tally,
) -> None:
    readings = judge.comparisons(stranger.picture, question, [(a.text, b.text) for a, b in pairs])
    tally.stranger.add([1] * len(pairs), readings)
    responses = [response for pair in pairs for response in pair]
    tally.stranger_scored.scored += judge.scores(
        stranger.picture, question, [r.text for r in responses]
    )
    # Right and wrong by turns: what they would be worth under their own picture.
    tally.stranger_scored.expected += [1.0, 0.0] * len(pairs)


def _exchange(
    judge: Judge, sample: Sample, other: Sample, question: str, mine: Response, tally: Tally
) -> None:
    """The same two texts under two pictures: each is right under one of them."""
    theirs = renamed(mine, (other.truth.digit,))
    texts = [mine.text, theirs.text]
    here, there = (judge.scores(s.picture, question, texts) for s in (sample, other))
    tally.two_pictures += [here[0] > there[0], there[1] > here[1]]
    [first], [second] = (
        judge.comparisons(s.picture, question, [(mine.text, theirs.text)]) for s in (sample, other)
    )
    tally.two_pictures_pairwise += [first.margin > 0, second.margin < 0]


def _stranger(samples: Sequence[Sample], start: int, named: set[int]) -> Sample:
    """The next picture that shows none of the digits named."""
    return next(s for s in _after(samples, start) if s.truth.digit not in named)


def _other_digit(samples: Sequence[Sample], start: int) -> Sample:
    shown = samples[start].truth.digit
    return next(s for s in _after(samples, start) if s.truth.digit != shown)


def _after(samples: Sequence[Sample], start: int) -> Iterable[Sample]:
    return [*samples[start + 1 :], *samples[:start]]


def pictures_only(
    judge: Judge, samples: Sequence[Sample], wording: Wording
) -> dict[str, float | int]:
    """How well a kind of picture is read: pairs of which the digit decides."""
    rng = np.random.default_rng([SEED, 13])
    compared = Compared()
    higher = []
    for sample in samples:
        question = question_of(wording, rng)
        pairs = [
            same_wording_pair(sample.truth, question, rng, wording=wording)
            for _ in range(SAME_WORDS)
        ]
        texts = [(a.text, b.text) for a, b in pairs]
        compared.add([1] * len(pairs), judge.comparisons(sample.picture, question, texts))
        scores = judge.scores(sample.picture, question, [t for pair in texts for t in pair])
        higher += [a > b for a, b in zip(scores[::2], scores[1::2], strict=True)]
    return {**compared.decided(), "pointwise": share(higher), "pictures": len(samples)}
