"""From a request's content to queries. Everything malformed ends here, one item at a time."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from adjudge_server import leaving
from adjudge_server.content import Candidate, Pair, Part, Question, Role, WireImage
from adjudge_server.critic import CriticCard, Query, Turn
from adjudge_server.errors import (
    AdjudgeError,
    InputTooLong,
    InvalidRequest,
    LimitExceeded,
    UnknownTemplate,
    UnsupportedContent,
    shortened,
)
from adjudge_server.images import Picture
from adjudge_server.templates import Kind, RewardKind, Template

MAX_CHARACTERS_PER_TOKEN = 128
"""More than any token of any vocabulary here has. Longer text is refused before anybody copies or
tokenises it once for every candidate."""

ReadPicture = Callable[[WireImage], Picture]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold; the part of the limits that queries check."""

    max_images: int
    max_candidates: int
    max_pairs: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A question understood: its template, and its prompt as text and decoded pictures."""

    template: Template
    text: str
    pictures: tuple[Picture, ...]
    slots: dict[str, str]
    turns: tuple[Turn, ...] = ()
    """See `Query`."""

    def query(self, candidates: dict[str, str]) -> Query:
        leaving.check()
        rendered = self.template.render({**self.slots, "prompt": self.text, **candidates})
        digests = [picture.digest for picture in self.pictures]
        turns = [[turn.role.value, turn.text] for turn in self.turns]
        # As JSON, because whatever is in a text, it cannot look like another part.
        identity = json.dumps([self.template.hash, digests, turns or rendered.head])
        return Query(
            template=self.template,
            text=rendered.text,
            head=rendered.head,
            pictures=self.pictures,
            prompt=self.text,
            candidates=tuple(candidates.values()),
            group=hashlib.sha256(identity.encode()).hexdigest(),
            turns=self.turns,
        )


def ask(
    question: Question, kind: Kind, card: CriticCard, limits: Limits, read_picture: ReadPicture
) -> Asked:
    """Checks everything in a request that is not a candidate; its errors fail the whole call."""
    template = _template(question.template, kind, card)
    if not question.prompt:
        raise InvalidRequest("the prompt is empty", field="prompt")
    conversation = template.reward is RewardKind.SCALAR
    if not conversation:
        _check_single_turn(question, template)
    images = _images(question)
    text = "".join(_text(message.parts) for message in question.prompt)
    _check_length(text, "prompt", card)
    if text and template.slots and "prompt" not in template.slots:
        raise UnsupportedContent(
            f"{template.name} has no place for the prompt's text",
            field="prompt",
            template=template.name,
        )
    if images and not card.sees_images:
        raise UnsupportedContent(
            f"{card.name} does not see pictures", field=images[0][0], template=template.name
        )
    if len(images) > limits.max_images:
        raise _limit("prompt", "max_images", limits.max_images, len(images))
    return Asked(
        template=template,
        text=text,
        pictures=tuple(_located(field, read_picture, image) for field, image in images),
        slots=_optional_slots(question, template),
        turns=_turns(question, card) if conversation else (),
    )


def candidate_texts(
    candidates: Sequence[Candidate | AdjudgeError],
    template: Template,
    card: CriticCard,
    limits: Limits,
) -> list[str | AdjudgeError]:
    """Each candidate's text, or why it cannot be judged. Raises where their number is wrong."""
    if not candidates:
        raise InvalidRequest("there must be at least one candidate", field="candidates")
    if len(candidates) > limits.max_candidates:
        raise _limit("candidates", "max_candidates", limits.max_candidates, len(candidates))
    return [
        _outcome(partial(_candidate_text, candidate, f"candidates[{i}]", template, card))
        for i, candidate in enumerate(candidates)
    ]


def score_queries(asked: Asked, texts: Sequence[str | AdjudgeError]) -> list[Query | AdjudgeError]:
    """One query per candidate."""
    return [
        text if isinstance(text, AdjudgeError) else asked.query({"candidate": text})
        for text in texts
    ]


def check_pairs(
    pairs: Sequence[Pair], texts: Sequence[str | AdjudgeError], limits: Limits
) -> list[Pair | AdjudgeError]:
    """Each pair, or why it cannot be compared. Raises where there are too many."""
    if len(pairs) > limits.max_pairs:
        raise _limit("pairs", "max_pairs", limits.max_pairs, len(pairs))
    return [
        _outcome(partial(_check_pair, pair, f"pairs[{i}]", texts)) for i, pair in enumerate(pairs)
    ]


def num_characters(
    asked: Asked, texts: Sequence[str | AdjudgeError], groups: Iterable[Sequence[int]]
) -> int:
    """Of all queries that are made of these candidates: each has the whole prompt, twice."""
    lengths = [len(text) if isinstance(text, str) else 0 for text in texts]
    return sum(
        2 * len(asked.text) + sum(lengths[i] for i in group if i < len(texts)) for group in groups
    )


def pair_query(asked: Asked, texts: Sequence[str | AdjudgeError], pair: Pair) -> Query:
    """The query of a pair that `check_pairs` has passed, in the order given."""
    first, second = texts[pair.first], texts[pair.second]
    assert isinstance(first, str) and isinstance(second, str)
    return asked.query({"first": first, "second": second})


def texts_of(
    texts: Sequence[str | AdjudgeError], item: int | Pair | AdjudgeError
) -> tuple[str, ...] | None:
    """Of a candidate, by its index, or of a pair; None where one of them has none."""
    if isinstance(item, AdjudgeError):
        return None
    indices = (item,) if isinstance(item, int) else (item.first, item.second)
    found = tuple(texts[i] for i in indices if i < len(texts))
    sound = tuple(text for text in found if isinstance(text, str))
    return sound if len(sound) == len(indices) else None


def _template(name: str, kind: Kind, card: CriticCard) -> Template:
    if not name:
        default = card.default_template(kind)
        if default is None:
            raise UnknownTemplate(f"{card.name} has no {kind.value} template", field="template")
        return default
    for template in card.templates:
        if template.name == name and template.kind is kind:
            return template
    raise UnknownTemplate(
        f"{card.name} has no {kind.value} template {shortened(name)!r}; GetModel lists its own",
        field="template",
        template=name,
    )


def _check_single_turn(question: Question, template: Template) -> None:
    if len(question.prompt) > 1 or question.prompt[0].role is not Role.USER:
        raise UnsupportedContent(
            f"{template.name} takes a prompt of exactly one user turn",
            field="prompt",
            template=template.name,
        )


def _images(question: Question) -> list[tuple[str, WireImage]]:
    """The pictures of a prompt, with their fields.

    Where a picture stands among the text is not kept: templates put pictures first.
    """
    return [
        (f"prompt[{i}].parts[{j}]", part)
        for i, message in enumerate(question.prompt)
        for j, part in enumerate(message.parts)
        if not isinstance(part, str)
    ]


def _turns(question: Question, card: CriticCard) -> tuple[Turn, ...]:
    """Raises InputTooLong where they are more than their tokens can be."""
    if len(question.prompt) > card.max_input_tokens:
        raise InputTooLong(
            f"{len(question.prompt)} turns cannot be {card.max_input_tokens} tokens",
            field="prompt",
            actual=len(question.prompt),
            maximum=card.max_input_tokens,
        )
    return tuple(Turn(message.role, _text(message.parts)) for message in question.prompt)


def _optional_slots(question: Question, template: Template) -> dict[str, str]:
    slots = {}
    for name, value in (("reference", question.reference), ("rubric", question.rubric)):
        if value is not None and name not in template.slots:
            raise UnsupportedContent(
                f"{template.name} has no place for a {name}", field=name, template=template.name
            )
        if value is None and name in template.slots:
            raise InvalidRequest(f"{template.name} needs a {name}", field=name)
        if value is not None:
            slots[name] = value
    return slots


def _candidate_text(
    candidate: Candidate | AdjudgeError, field: str, template: Template, card: CriticCard
) -> str:
    if isinstance(candidate, AdjudgeError):
        raise candidate
    for i, part in enumerate(candidate.parts):
        if not isinstance(part, str):
            raise UnsupportedContent(
                f"{template.name} has no place for pictures in candidates",
                field=f"{field}.parts[{i}]",
                template=template.name,
            )
    text = _text(candidate.parts)
    _check_length(text, field, card)
    return text


def _check_length(text: str, field: str, card: CriticCard) -> None:
    at_least = len(text) // MAX_CHARACTERS_PER_TOKEN
    if at_least > card.max_input_tokens:
        raise InputTooLong(
            f"{len(text)} characters cannot be {card.max_input_tokens} tokens",
            field=field,
            actual=at_least,
            maximum=card.max_input_tokens,
        )


def _check_pair(pair: Pair, field: str, texts: Sequence[str | AdjudgeError]) -> Pair:
    for side, index in (("first", pair.first), ("second", pair.second)):
        if index >= len(texts):
            raise InvalidRequest(
                f"index {index} of {len(texts)} candidates", field=f"{field}.{side}"
            )
        text = texts[index]
        if isinstance(text, AdjudgeError):
            raise text
    if pair.first == pair.second:
        raise InvalidRequest("a candidate cannot be compared with itself", field=f"{field}.second")
    return pair


def _text(parts: Sequence[Part]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _limit(field: str, name: str, maximum: int, actual: int) -> LimitExceeded:
    return LimitExceeded(
        f"{actual} is more than {name}, {maximum}",
        field=field,
        limit=name,
        maximum=maximum,
        actual=actual,
    )


def _located(field: str, read: ReadPicture, image: WireImage) -> Picture:
    leaving.check()
    try:
        return read(image)
    except AdjudgeError as error:
        raise error.within(field) from error


def _outcome(call: Callable[[], T]) -> T | AdjudgeError:
    try:
        return call()
    except AdjudgeError as error:
        return error
