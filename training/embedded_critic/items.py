"""From judged responses to what is trained on: conversations with the verdict marked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedded_critic import prompts
from embedded_critic.packing import Item
from embedded_critic.prompts import Judged


@dataclass(frozen=True, slots=True)
class Exercise:
    """Items about one picture and one question, and another of their kind that differs early."""

    items: list[Item]
    pilot: Item


def scoring_exercise(
    question: str,
    responses: Sequence[Judged],
    shown: str,
    rng: np.random.Generator,
    *,
    full: bool,
    reasons: float,
) -> Exercise:
    """Scores of responses; a share of `reasons` of the answers goes on after the score."""
    template = prompts.POINTWISE if full else prompts.SHORT_POINTWISE
    items = [
        pointwise_item(question, r, shown, template=template, whole=bool(rng.random() < reasons))
        for r in responses
    ]
    pilot, _ = _fill(template, prompt=question, candidate="~")
    return Exercise(_shuffled(items, rng), Item(pilot, "", (0, 0)))


def comparing_exercise(
    question: str,
    pairs: Sequence[tuple[Judged, Judged]],
    shown: str,
    rng: np.random.Generator,
    *,
    full: bool,
    reasons: float,
) -> Exercise:
    """Comparisons of pairs, some of them in both orders."""
    template = prompts.PAIRWISE if full else prompts.SHORT_PAIRWISE
    both = [*pairs, *((b, a) for a, b in pairs[: len(pairs) // 4])]
    items = [
        pairwise_item(question, a, b, shown, template=template, whole=bool(rng.random() < reasons))
        for a, b in both
    ]
    pilot, _ = _fill(template, prompt=question, first="~", second="~")
    return Exercise(_shuffled(items, rng), Item(pilot, "", (0, 0)))


def caption_exercise(question: str, captions: Sequence[str]) -> Exercise:
    """What the picture shows, in different words."""
    items = [Item(question, text, (0, len(text))) for text in captions]
    return Exercise(items, items[0])


def pointwise_item(
    question: str,
    response: Judged,
    shown: str,
    *,
    template: str = prompts.POINTWISE,
    whole: bool = True,
) -> Item:
    user, ends = _fill(template, prompt=question, candidate=response.text)
    answer = prompts.score_answer(response, shown)
    start, stop = len(prompts.SCORE_OPENING), answer.index(".") + 1
    return Item(
        user,
        answer if whole else answer[:stop],
        (start, stop),  # with the full stop, which tells 8 from 85
        (ends["candidate"],),
        (response.score / 100,),
        whole,
    )


def pairwise_item(
    question: str,
    first: Judged,
    second: Judged,
    shown: str,
    *,
    template: str = prompts.PAIRWISE,
    whole: bool = True,
) -> Item:
    user, ends = _fill(template, prompt=question, first=first.text, second=second.text)
    answer = prompts.verdict_answer(first, second, shown)
    return Item(
        user,
        answer if whole else answer[: answer.index(".") + 1],
        (len("The"), answer.index(" ", len("The "))),  # " first", " second" or " two"
        (ends["first"], ends["second"]),
        (first.score / 100, second.score / 100),
        whole,
    )


def _shuffled(items: list[Item], rng: np.random.Generator) -> list[Item]:
    return [items[i] for i in rng.permutation(len(items))]


def _fill(template: str, **values: str) -> tuple[str, dict[str, int]]:
    """The text, and for each slot the index right after its value."""
    text, ends = "", {}
    while "{" in template:
        before, _, rest = template.partition("{")
        slot, _, template = rest.partition("}")
        text += before + values[slot]
        ends[slot] = len(text)
    return text + template, ends
