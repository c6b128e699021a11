"""A checkpoint's judgements, read with the server's own code: measured as served."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from adjudge_server import readout
from adjudge_server.critic import Query, Reading
from adjudge_server.critics.llava_loading import load
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.errors import InputTooLong
from adjudge_server.images import Picture
from adjudge_server.templates import Template


@dataclass(frozen=True, slots=True)
class Comparison:
    """One pair, judged in both orders."""

    margin: float
    """Nats in favour of the first, both orders averaged."""
    given_order: float
    swapped_order: float
    """The margins of the two orders, both in favour of the first."""
    tie: float
    """Probability of a tie."""
    preference: float


class Judge:
    """Scores and compares responses about a picture."""

    def __init__(self, folder: Path) -> None:
        self._critic: LlavaOnevisionCritic = load(
            folder, name="embedded", device="cpu", dtype="float32", max_input_tokens=2048
        )
        by_name = {t.name: t for t in self._critic.card.templates}
        self._pointwise = by_name["embedded/pointwise"]
        self._pairwise = by_name["embedded/pairwise"]
        self.readings = 0
        self.off_format = 0
        """Readings that the server would refuse. They are counted, and judged all the same."""

    def scores(self, picture: Picture, question: str, responses: Sequence[str]) -> list[float]:
        """Expected score of each response."""
        queries = [_query(self._pointwise, picture, question, candidate=text) for text in responses]
        template = _without_floors(self._pointwise)
        return [readout.reward(template, r).reward for r in self._read(queries)]

    def comparisons(
        self, picture: Picture, question: str, pairs: Sequence[tuple[str, str]]
    ) -> list[Comparison]:
        """Margins of each pair."""
        queries = [
            _query(self._pairwise, picture, question, first=first, second=second)
            for a, b in pairs
            for first, second in ((a, b), (b, a))
        ]
        readings = self._read(queries)
        return [
            self._compare(given, swapped)
            for given, swapped in zip(readings[::2], readings[1::2], strict=True)
        ]

    def written(self, picture: Picture, question: str, response: str, max_tokens: int = 40) -> str:
        """What the critic writes about a response."""
        query = _query(self._pointwise, picture, question, candidate=response)
        [item] = self._prepare([query])
        return "".join(w.text for w in self._critic.critique(item, max_tokens))

    def _compare(self, given: Reading, swapped: Reading) -> Comparison:
        both = readout.comparison(_without_floors(self._pairwise), [given, swapped], 0.0)
        bias = both.position_bias or 0.0
        return Comparison(
            margin=both.margin,
            given_order=both.margin + bias,
            swapped_order=both.margin - bias,
            tie=both.tie_probability,
            preference=both.preference,
        )

    def _prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt]:
        prepared = []
        for item in self._critic.prepare(queries):
            if isinstance(item, InputTooLong):
                raise item
            prepared.append(item)
        return prepared

    def _read(self, queries: Sequence[Query]) -> list[Reading]:
        readings = self._critic.forward(self._prepare(queries))
        self.readings += len(readings)
        for query, reading in zip(queries, readings, strict=True):
            valid = float(np.exp(reading.answer_log_probs).sum())
            template = query.template
            if reading.opening_mass < template.min_opening_mass or valid < template.min_valid_mass:
                self.off_format += 1
        return readings


def _without_floors(template: Template) -> Template:
    return replace(template, min_opening_mass=-math.inf, min_valid_mass=0.0)


def to_picture(image: Image.Image) -> Picture:
    """An image as the server holds it."""
    rgb = image.convert("RGB")
    return Picture(rgb, digest=str(hash((rgb.size, rgb.tobytes()))))


def _query(template: Template, picture: Picture, question: str, **slots: str) -> Query:
    rendered = template.render({"prompt": question, **slots})
    return Query(
        template=template,
        text=rendered.text,
        head=rendered.head,
        pictures=(picture,),
        prompt=question,
        candidates=tuple(slots.values()),
        group=f"{template.name}\0{picture.digest}\0{rendered.head}",
    )
