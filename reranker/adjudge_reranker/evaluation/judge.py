"""Puts labelled items before a critic, several at once, and keeps failures apart from readings."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeAlias

from adjudge_reranker.client import RewardClient
from adjudge_reranker.content import PartLike
from adjudge_reranker.errors import RewardError, ServerUnavailable
from adjudge_reranker.evaluation.records import (
    Item,
    LabelledGroup,
    LabelledPair,
    LabelledScore,
    Picture,
)
from adjudge_reranker.in_order import in_order
from adjudge_reranker.model_info import ModelInfo, Template, TemplateKind
from adjudge_reranker.pictures import Image
from adjudge_reranker.types import Comparison, Failure, Provenance, Reward, ScoreOutcome

UNREADABLE_IMAGE = "UNREADABLE_IMAGE"
"""The reason of an item whose picture could not be read when its turn came."""
NOT_AN_IMAGE = "NOT_AN_IMAGE"
"""The reason of an item whose picture is none that a server reads, going by its first bytes. It is
not sent: whoever wrote the file may have named something that is not theirs to see."""
NOT_JUDGED = "NOT_JUDGED"
"""The reason of items that were left over when the server stayed unavailable."""

_BEGINNINGS: Final = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",  # BigTIFF
    b"MM\x00+",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What every call carries; None for the server's defaults."""

    pairwise_template: str | None = None
    pointwise_template: str | None = None
    rubric: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """An item without a reading, and why. Never counts as wrong, or as 0."""

    reason: str
    """An ErrorReason, the name of a gRPC code, UNREADABLE_IMAGE, NOT_AN_IMAGE or NOT_JUDGED."""
    error: Exception | None = None
    """None if it was not judged."""
    is_call: bool = False
    """Whether the whole call failed, rather than a candidate or the pair in it."""
    outcomes: tuple[ScoreOutcome, ...] = ()
    """Of a group some of whose candidates failed: those of all, chosen ones first."""


Reading: TypeAlias = Comparison | Reward | tuple[Reward, ...]
"""Of a pair, of a score, and of a group: one reward a candidate, chosen ones first."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An item and what came of it."""

    item: Item
    reading: Reading | Unanswered
    provenance: Provenance | None = None
    """None if the call failed."""


class NotAnImage(ValueError):
    """Bytes that do not begin as a picture does."""


class UnknownTemplate(ValueError):
    """The model has no such template, or two of one kind were asked for."""


def choose_templates(
    names: Sequence[str], model: ModelInfo
) -> tuple[Template | None, Template | None]:
    """The pairwise and the pointwise template to ask with: those named, or else the defaults, which
    are None where the model has none.

    Raises UnknownTemplate.
    """
    chosen: dict[TemplateKind, Template] = {}
    for name in names:
        named = [template for template in model.templates if template.name == name]
        if not named:
            known = ", ".join(template.name for template in model.templates)
            raise UnknownTemplate(f"no template {name!r}; the model has {known or 'none'}")
        for template in named:
            if template.kind in chosen:
                raise UnknownTemplate(f"two {template.kind} templates; an evaluation takes one")
            chosen[template.kind] = template
    pairwise, pointwise = (
        chosen.get(kind) or model.default_template(kind)
        for kind in (TemplateKind.PAIRWISE, TemplateKind.POINTWISE)
    )
    return pairwise, pointwise


def judge_items(
    client: RewardClient, items: Sequence[Item], question: Question
) -> Iterator[Judged]:
    """Each item with its reading, in order, several calls at a time.

    Pairs are compared in both orders. A server that stays unavailable for a call's whole timeout
    ends the run, because every other item would wait as long: the rest come out as NOT_JUDGED. If
    the caller stops early, the client is closed to end the calls under way.
    """
    num_judged = 0
    with closing(in_order(lambda i: _judge(client, i, question), items, client.close)) as results:
        for _, judged in results:
            yield judged
            num_judged += 1
            reading = judged.reading
            if isinstance(reading, Unanswered) and isinstance(reading.error, ServerUnavailable):
                break
    for item in items[num_judged:]:
        yield Judged(item, Unanswered(NOT_JUDGED))


def is_image(data: bytes) -> bool:
    """Whether they begin as a PNG, JPEG, WebP, GIF, BMP or TIFF file does."""
    if data[:4] == b"RIFF":
        return data[8:12] == b"WEBP"
    return data.startswith(_BEGINNINGS)


def read_image(picture: Picture) -> Image:
    """To be sent. Raises NotAnImage, and OSError or ValueError for one that cannot be read."""
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    image = Image(data)
    if not is_image(data):
        name = "bytes in the file" if isinstance(picture, bytes) else picture
        raise NotAnImage(f"no PNG, JPEG, WebP, GIF, BMP or TIFF: {name}")
    return image


def reason_of(error: RewardError) -> str:
    """What failures are counted under: the contract's reason, or else the name of gRPC's code."""
    return error.reason or error.code.name


def _judge(client: RewardClient, item: Item, question: Question) -> Judged:
    try:
        # Here and not in the client, so that no other mistake is taken for a picture's.
        images = [read_image(picture) for picture in item.images]
    except NotAnImage as error:
        return Judged(item, Unanswered(NOT_AN_IMAGE, error))
    except (OSError, ValueError) as error:
        return Judged(item, Unanswered(UNREADABLE_IMAGE, error))
    prompt: list[PartLike] = [*images, item.prompt]  # pictures first, as critics read them
    try:
        if isinstance(item, LabelledPair):
            return _compare(client, item, prompt, question)
        return _score(client, item, prompt, question)
    except RewardError as error:
        return Judged(item, Unanswered(reason_of(error), error, is_call=True))


def _compare(
    client: RewardClient, item: LabelledPair, prompt: list[PartLike], question: Question
) -> Judged:
    result = client.compare(
        prompt,
        item.candidates,
        [(0, 1)],
        template=question.pairwise_template,
        rubric=question.rubric,
        model=question.model,
    )
    (outcome,) = result.outcomes
    if isinstance(outcome, Failure):
        return Judged(item, Unanswered(reason_of(outcome.error), outcome.error), result.provenance)
    return Judged(item, outcome, result.provenance)


def _score(
    client: RewardClient,
    item: LabelledScore | LabelledGroup,
    prompt: list[PartLike],
    question: Question,
) -> Judged:
    is_group = isinstance(item, LabelledGroup)
    candidates = (
        item.chosen + item.rejected if isinstance(item, LabelledGroup) else (item.candidate,)
    )
    result = client.score(
        prompt,
        candidates,
        template=question.pointwise_template,
        rubric=question.rubric,
        model=question.model,
    )
    rewards = tuple(one for one in result.outcomes if isinstance(one, Reward))
    if result.failures:
        first = result.failures[0]
        outcomes = result.outcomes if is_group else ()
        unanswered = Unanswered(reason_of(first), first, outcomes=outcomes)
        return Judged(item, unanswered, result.provenance)
    return Judged(item, rewards if is_group else rewards[0], result.provenance)
