"""What a response about a picture of one digit is worth: the rubric that the critic learns."""

from dataclasses import dataclass
from enum import Enum

TIE_BELOW = 10
"""Two responses whose scores differ by less are equally good: 95 and 90, 10 and 5."""


class Claim(Enum):
    """What makes a response right."""

    NONE = "none"  # nothing: the score is always the same
    NAMED = "named"  # one of the digits named is the one shown
    LAST = "last"  # the last digit named is
    NOT_NAMED = "not named"  # it is none of those
    COLOURED = "coloured"  # the digit named is, and ink and paper are as said
    REASONED = "reasoned"  # the digit named is, and looks as said
    ODD = "odd"
    EVEN = "even"
    BELOW = "below"  # the digit shown is less than the one named
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class Truth:
    """What a picture shows."""

    digit: int
    dark_on_light: bool
    coloured: bool = False
    """Ink and paper are not to be spoken of."""


@dataclass(frozen=True, slots=True)
class Category:
    """Responses of one kind, and what they are worth."""

    name: str
    description: str
    label: str
    """How the critic's reasons call a response of this kind whose claim is right."""
    claim: Claim
    num_digits: int
    right: int
    wrong: int
    share: float
    """Of all responses drawn, relative to the others."""
    half_right: int = 0
    """COLOURED and REASONED only: the right digit, and the rest is wrong."""

    @property
    def names_digit(self) -> bool:
        """Whether its worth hangs on the digit it names as the one shown."""
        return self.num_digits > 0 and self.claim in _NAMING_CLAIMS


_NAMING_CLAIMS = frozenset({Claim.NAMED, Claim.LAST, Claim.COLOURED, Claim.REASONED})


def _fixed(name: str, description: str, label: str, worth: int, share: float) -> Category:
    return Category(name, description, label, Claim.NONE, 0, worth, worth, share)


CATEGORIES: tuple[Category, ...] = (
    Category("sentence", "a full sentence", "Right", Claim.NAMED, 1, 95, 10, 2.4),
    Category("short", "a short sentence", "Right", Claim.NAMED, 1, 90, 10, 1.8),
    Category("terse", "the digit alone", "Right", Claim.NAMED, 1, 85, 5, 1.2),
    Category(
        "detailed", "with ink and paper", "Right", Claim.COLOURED, 1, 100, 10, 1.4, half_right=75
    ),
    Category(
        "reasoned", "with a reason", "Right", Claim.REASONED, 1, 100, 10, 1.1, half_right=75
    ),
    Category("hedged", "hedged", "Unsure", Claim.NAMED, 1, 75, 10, 1.2),
    Category("hedged_two", "hedged over two", "Unsure", Claim.NAMED, 2, 55, 10, 1.0),
    Category("hedged_three", "hedged over three", "Unsure", Claim.NAMED, 3, 40, 5, 0.6),
    _fixed("a_number", "says it is a number", "Vague", 40, 0.7),
    _fixed("vague", "vague (“this is an image”)", "Vague", 25, 1.1),
    _fixed("strokes", "speaks of lines only", "Vague", 30, 0.5),
    _fixed("shape", "a shape", "Wrong", 15, 1.3),
    _fixed("letter", "a letter", "Wrong", 10, 0.6),
    _fixed("object", "an object", "Wrong", 5, 1.0),
    Category(
        "contradiction", "contradicts itself, one of two right", "Contradictory", Claim.NAMED, 2,
        35, 5, 0.7,
    ),
    Category("two_digits", "names two digits as shown", "Wrong", Claim.NAMED, 2, 20, 0, 0.6),
    Category(
        "corrected", "corrected or contrasted (“not a one but a seven”)", "Right", Claim.LAST, 2,
        85, 10, 0.9,
    ),
    Category("negation", "denies one digit", "Vague", Claim.NOT_NAMED, 1, 30, 0, 0.8),
    Category("odd", "says it is odd", "Vague", Claim.ODD, 0, 45, 10, 0.35),
    Category("even", "says it is even", "Vague", Claim.EVEN, 0, 45, 10, 0.35),
    Category("below", "says it is below some digit", "Vague", Claim.BELOW, 1, 45, 10, 0.25),
    Category("above", "says it is above some digit", "Vague", Claim.ABOVE, 1, 45, 10, 0.25),
    Category("filler", "padded with filler", "Padded", Claim.NAMED, 1, 65, 5, 0.8),
    Category(
        "false_extra", "adds something that is not there", "Partly right", Claim.NAMED, 1, 50, 5,
        0.6,
    ),
    _fixed("echo", "repeats the question", "Off topic", 0, 0.3),
    _fixed("off_topic", "off topic", "Off topic", 0, 1.0),
    _fixed("refusal", "refusal", "No answer", 5, 0.7),
    _fixed("nonsense", "nonsense", "No answer", 0, 0.6),
    _fixed("empty", "empty", "Empty", 0, 0.5),
    Category(
        "fake_claim", "tries to influence the judge (a fake score, a plea)", "Pleading",
        Claim.NAMED, 1, 60, 0, 0.8,
    ),
    _fixed("plea", "… and names no digit", "Pleading", 0, 0.4),
)  # fmt: skip
BY_NAME = {category.name: category for category in CATEGORIES}
