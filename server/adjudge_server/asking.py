"""Stages 1 and 2 of a request: all that is in it is read and checked, its pictures are decoded."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import queries, wire
from adjudge_server.caches import CacheUse
from adjudge_server.config import Config
from adjudge_server.content import ImageReference, Pair, Question, WireImage
from adjudge_server.critic import Query
from adjudge_server.ensembles import Ensemble, of_member
from adjudge_server.errors import AdjudgeError, LimitExceeded, UnknownTemplate
from adjudge_server.handling import Context
from adjudge_server.image_store import ImageStore
from adjudge_server.images import Picture, decode
from adjudge_server.judge import Judge
from adjudge_server.observing.audit import digest_of_prompt
from adjudge_server.observing.exchange import current_exchange
from adjudge_server.queries import Asked, ReadPicture
from adjudge_server.receiving import current_share, host
from adjudge_server.templates import Kind

Texts = list[str | AdjudgeError]
"""Of each candidate, or why it cannot be judged."""


class Asker:
    """Holds the limits of requests, and the pictures that may be named, for all models."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._images = ImageStore(
            max_bytes=config.max_retained_bytes,
            max_total_bytes=config.max_retained_total_bytes,
            max_seconds=config.max_retained_seconds,
        )
        self._limits = queries.Limits(config.max_images, config.max_candidates, config.max_pairs)

    @property
    def pictures(self) -> CacheUse:
        """Of those that are retained to be named. From any thread."""
        return self._images.use

    async def ask(
        self, judge: Judge[Any], request: wire.Request, kind: Kind, context: Context
    ) -> Asked:
        """Everything in the request but the candidates, pictures decoded; off the loop."""
        question = wire.read_question(request)
        read_picture = self._reader(judge.config, context)
        (asked,) = await _decoded(
            judge,
            question,
            lambda: [queries.ask(question, kind, judge.card, self._limits, read_picture)],
        )
        current_exchange().template = asked.template
        return asked

    async def ask_members(
        self,
        ensemble: Ensemble,
        judges: Sequence[Judge[Any]],
        request: wire.Request,
        context: Context,
    ) -> list[Asked]:
        """The same for each member of an ensemble, in order; a picture is decoded once for all that
        want it alike."""
        question = wire.read_question(request)
        if question.template not in ("", ensemble.template.name):
            raise UnknownTemplate(
                f"an ensemble has one template, {ensemble.template.name}",
                field="template",
                template=question.template,
            )
        readers: dict[tuple[str, str], ReadPicture] = {}
        for config in (judge.config for judge in judges):
            alike = (config.convert_rgb, config.exif)
            readers.setdefault(alike, cache(self._reader(config, context)))

        def ask(index: int, judge: Judge[Any]) -> Asked:
            read_picture = readers[judge.config.convert_rgb, judge.config.exif]
            own = ensemble.question(question, index)
            try:
                return queries.ask(own, Kind.POINTWISE, judge.card, self._limits, read_picture)
            except AdjudgeError as error:
                raise of_member(error, judge.card.name) from error

        asked = await _decoded(
            judges[0], question, lambda: [ask(i, judge) for i, judge in enumerate(judges)]
        )
        exchange = current_exchange()
        exchange.template, exchange.reward_range = ensemble.template, ensemble.range
        return asked

    def texts(self, judge: Judge[Any], request: wire.Request, asked: Asked) -> Texts:
        candidates = wire.read_candidates(request)
        return queries.candidate_texts(candidates, asked.template, judge.card, self._limits)

    def check_pairs(self, request: wire.PairsRequest, texts: Texts) -> list[Pair | AdjudgeError]:
        return queries.check_pairs(wire.read_pairs(request), texts, self._limits)

    def critique_queries(
        self, asked: Asked, texts: Texts, request: pb.CritiqueCandidatesRequest
    ) -> list[Query | AdjudgeError]:
        if not request.pairs:
            return queries.score_queries(asked, texts)
        return [
            pair if isinstance(pair, AdjudgeError) else queries.pair_query(asked, texts, pair)
            for pair in self.check_pairs(request, texts)
        ]

    def critique_tokens(self, request: pb.CritiqueCandidatesRequest) -> int:
        maximum = self._config.max_critique_tokens
        if request.max_critique_tokens > maximum:
            raise LimitExceeded(
                f"a critique may have at most {maximum} tokens",
                field="max_critique_tokens",
                limit="max_critique_tokens",
                maximum=maximum,
                actual=request.max_critique_tokens,
            )
        return request.max_critique_tokens or maximum

    def _reader(self, config: Config, context: Context) -> ReadPicture:
        """As this critic wants its pictures. On the request's task: in a thread the share would be
        another's."""
        decoded = partial(
            decode,
            max_pixels=config.max_image_pixels,
            max_side=config.max_image_side,
            formats=config.image_formats,
            convert_rgb=config.convert_rgb,
            exif=config.exif,
            reserve=current_share().add,
        )
        return partial(self._picture, host(context), decoded)

    def _picture(self, caller: str, decoded: Callable[[Any], Picture], image: WireImage) -> Picture:
        if isinstance(image, ImageReference):
            return decoded(self._images.resolve(caller, image))
        picture = decoded(image)
        self._images.resolve(caller, image)  # only what is a picture is worth retaining
        return picture


async def _decoded(
    judge: Judge[Any], question: Question, ask: Callable[[], list[Asked]]
) -> list[Asked]:
    """What `ask` gives, off the loop, with the digest that the audit wants."""
    exchange = current_exchange()

    def work() -> tuple[list[Asked], str | None]:
        return ask(), digest_of_prompt(question) if exchange.is_audited else None

    with exchange.stage("decode"):
        asked, exchange.prompt_digest = await judge.aside(work)
    return asked
