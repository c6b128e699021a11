"""What is asked in a verification: questions whose answers are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from adjudge_server.content import EncodedImage, Message, Part, Question, Role
from adjudge_server.critic import CriticCard, Query
from adjudge_server.images import Picture, decode
from adjudge_server.queries import Asked, Limits, ask
from adjudge_server.templates import Template


@dataclass(frozen=True, slots=True)
class Known:
    """A question whose answers are known, from right to wrong."""

    name: str
    prompt: str
    answers: tuple[str, ...]

    @property
    def right(self) -> str:
        return self.answers[0]

    @property
    def wrong(self) -> str:
        return self.answers[1]


SEVEN = Known(
    "the seven",
    "What this image presents?",
    (
        "This is a handwritten number seven.",
        "The image is a black and white sketch of a line that appears to be in the shape of a"
        " cross. The line is a simple and straightforward representation of the cross shape, with"
        " two straight lines intersecting at a point.",
        "It might be a one, or perhaps a seven.",
        "This is an image.",
        "",
    ),
)
"""The published example, where the critic is to prefer the seven to the cross."""
SUM = Known(
    "the sum",
    "What is 2 + 2?",
    ("2 + 2 is 4.", "2 + 2 is 17.", "It might be 4, or perhaps 5.", "That is a sum.", ""),
)
"""For critics that see no pictures."""
MAX_PIXELS = 10_000


def known(card: CriticCard) -> Known:
    """What a critic is asked."""
    return SEVEN if card.sees_images else SUM


def seven() -> EncodedImage:
    """The picture of the published example, 28x28: MNIST's first test picture, from ccexam 1.0.0
    (MIT; MNIST itself is usually stated to be CC BY-SA 3.0)."""
    return EncodedImage((files(__package__) / "seven.png").read_bytes())


def asked(card: CriticCard, template: Template) -> Asked:
    """The question of the published example, as a template wants it."""
    with_text = "prompt" in template.slots or not template.slots
    text: tuple[Part, ...] = (known(card).prompt,) if with_text else ()
    picture: tuple[Part, ...] = (seven(),) if card.sees_images else ()
    question = Question(
        (Message(Role.USER, (*text, *picture)),),
        template.name,
        reference=known(card).right if "reference" in template.slots else None,
        rubric="Is it right?" if "rubric" in template.slots else None,
    )
    return ask(question, template.kind, card, Limits(1, 1000, 1000), _read)


def score_queries(card: CriticCard, template: Template, answers: Sequence[str]) -> list[Query]:
    about = asked(card, template)
    return [about.query({"candidate": answer}) for answer in answers]


def pair_queries(
    card: CriticCard, template: Template, pairs: Sequence[tuple[str, str]]
) -> list[Query]:
    about = asked(card, template)
    return [about.query({"first": first, "second": second}) for first, second in pairs]


def _read(image: object) -> Picture:
    assert isinstance(image, EncodedImage)
    return decode(image, max_pixels=MAX_PIXELS)
