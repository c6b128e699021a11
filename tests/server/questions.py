"""Queries for tests of critics, made as the service makes them."""

from adjudge_server.content import EncodedImage, Message, Question, RawImage, Role
from adjudge_server.critic import CriticCard, Query
from adjudge_server.images import decode
from adjudge_server.queries import Asked, Limits, ask
from adjudge_server.templates import Kind

LIMITS = Limits(max_images=8, max_candidates=256, max_pairs=1024)
Image = EncodedImage | RawImage


def asked(card: CriticCard, kind: Kind, prompt: str, *images: Image) -> Asked:
    question = Question((Message(Role.USER, (prompt, *images)),), "")
    return ask(question, kind, card, LIMITS, lambda image: decode(image, max_pixels=10**7))


def score_query(card: CriticCard, prompt: str, candidate: str, *images: Image) -> Query:
    return asked(card, Kind.POINTWISE, prompt, *images).query({"candidate": candidate})


def pair_query(card: CriticCard, prompt: str, first: str, second: str, *images: Image) -> Query:
    return asked(card, Kind.PAIRWISE, prompt, *images).query({"first": first, "second": second})
