"""Queries for tests of critics, made as the service makes them."""

from adjudge_server.content import EncodedImage, Message, Question, RawImage, Role
from adjudge_server.critic import CriticCard, Query
from adjudge_server.images import decode
from adjudge_server.queries import Asked, Limits, ask
from adjudge_server.templates import Kind, Template
from adjudge_server.verdict import Located, Locator

LIMITS = Limits(max_images=8, max_candidates=256, max_pairs=1024)
Image = EncodedImage | RawImage


def asked(card: CriticCard, kind: Kind, prompt: str, *images: Image) -> Asked:
    question = Question((Message(Role.USER, (prompt, *images)),), "")
    return ask(question, kind, card, LIMITS, lambda image: decode(image, max_pixels=10**7))


def score_query(card: CriticCard, prompt: str, candidate: str, *images: Image) -> Query:
    return asked(card, Kind.POINTWISE, prompt, *images).query({"candidate": candidate})


def pair_query(card: CriticCard, prompt: str, first: str, second: str, *images: Image) -> Query:
    return asked(card, Kind.PAIRWISE, prompt, *images).query({"first": first, "second": second})


def query_of(card: CriticCard, template: Template, candidates: tuple[str, str]) -> Query:
    """A question in words with whatever the template has a place for."""
    extras = {slot: "A seven." for slot in ("reference", "rubric") if slot in template.slots}
    text = "What is this?" if "prompt" in template.slots else ""
    question = Question((Message(Role.USER, (text,)),), template.name, **extras)
    slots = ("candidate",) if template.kind is Kind.POINTWISE else ("first", "second")
    asked = ask(question, template.kind, card, LIMITS, lambda image: decode(image, max_pixels=1))
    return asked.query(dict(zip(slots, candidates, strict=False)))


def locate(template: Template, text: str, *, ended: bool) -> Located | None:
    """The verdict in a critique as far as it goes."""
    locator = Locator(template)
    found = locator.feed(text)
    return locator.end() if ended else found
