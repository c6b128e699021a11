"""Which queries share their work: those of one question, and no others, whatever is in its text."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.content import Message, Part, Question, RawImage, Role
from adjudge_server.critic import Query
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.images import decode
from adjudge_server.queries import ask
from adjudge_server.template_sets import templates_of
from adjudge_server.templates import Kind, RewardKind, Template
from tests.server.questions import LIMITS

PICTURES = [RawImage("L", 1, 1, bytes([grey])) for grey in range(2)]
DIGESTS = [decode(picture, max_pixels=1).digest for picture in PICTURES]
PROMPTED = replace(templates_of("embedded")[0], text="{prompt}{candidate}")
"""Its head is the prompt's text and nothing else."""
SCALAR = replace(PROMPTED, name="scalar", reward=RewardKind.SCALAR)
TEMPLATES = (PROMPTED, replace(PROMPTED, name="other", version=2), SCALAR)

hashes = [template.hash for template in TEMPLATES]
hostile = ["\0", ",", '"', "[", "]", '", "', "\\", "user", "assistant", "x", *DIGESTS, *hashes]
texts = st.lists(st.sampled_from(hostile), max_size=4).map("".join)
parts = st.lists(texts | st.sampled_from(PICTURES), min_size=1, max_size=3)


@st.composite
def questions(draw: st.DrawFn) -> tuple[Template, list[tuple[Role, list[Part]]]]:
    template = draw(st.sampled_from(TEMPLATES))
    roles = [Role.USER, *draw(st.lists(st.sampled_from(Role), max_size=2))]
    if template is not SCALAR:
        roles = roles[:1]
    return template, [(role, draw(parts)) for role in roles]


def query(question: tuple[Template, list[tuple[Role, list[Part]]]], candidate: str) -> Query:
    template, turns = question
    card = FakeCritic(name="fake", max_input_tokens=10_000, templates=TEMPLATES).card
    messages = tuple(Message(role, tuple(parts)) for role, parts in turns)
    asked = ask(
        Question(messages, template.name),
        Kind.POINTWISE,
        card,
        LIMITS,
        lambda image: decode(image, max_pixels=1),
    )
    return asked.query({"candidate": candidate})


def what_is_shared(query: Query) -> tuple[object, ...]:
    turns = [(turn.role, turn.text) for turn in query.turns]
    return query.template.hash, [p.digest for p in query.pictures], turns or query.head


@settings(deadline=None)
@given(one=questions(), other=questions())
def test_two_questions_are_of_one_group_only_if_all_that_is_shared_is_equal(
    one: tuple[Template, list[tuple[Role, list[Part]]]],
    other: tuple[Template, list[tuple[Role, list[Part]]]],
) -> None:
    this, that = query(one, "7"), query(other, "1")
    assert (this.group == that.group) == (what_is_shared(this) == what_is_shared(that))
    assert this.group == query(one, "A dog.").group


@settings(deadline=None)
@given(text=texts, number=st.integers(0, 1))
def test_a_text_that_spells_a_pictures_digest_is_not_that_picture(text: str, number: int) -> None:
    seen = query((PROMPTED, [(Role.USER, [text, PICTURES[number]])]), "7")
    for between in ("\0", '", "', ""):
        told = query((PROMPTED, [(Role.USER, [DIGESTS[number] + between + text])]), "7")
        assert seen.group != told.group
