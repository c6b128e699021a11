"""The response templates, by category: those trained on, and those kept for measuring only.

The held-out ones were written before any training run and were never used to tune anything.
"""

from dataclasses import dataclass
from enum import Enum


class Claim(Enum):
    """What makes a response right."""

    NONE = "none"  # nothing: the score is always the same
    NAMED = "named"  # one of the digits named is the one shown
    LAST = "last"  # the last digit named is
    NOT_NAMED = "not named"  # it is none of those
    COLOURED = "coloured"  # the digit named is, and ink and paper are as said
    ODD = "odd"
    EVEN = "even"
    BELOW = "below"  # the digit shown is less than the one named
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class Category:
    """Responses of one kind, and what they are worth."""

    name: str
    label: str
    """How the critic's reasons call a response of this kind whose claim is right."""
    claim: Claim
    num_digits: int
    right: int
    wrong: int
    templates: tuple[str, ...]
    held_out: tuple[str, ...]
    share: float = 1.0
    """Of all responses drawn, relative to the others."""
    half_right: int = 0
    """COLOURED only: right digit, wrong colours."""


# One phrase per line would make a thousand lines.
# fmt: off
CATEGORIES: tuple[Category, ...] = (
    Category(
        "sentence", "Right", Claim.NAMED, 1, 95, 10,
        (
            "{this} {is} a {hand} {kind} {0}.", "{this} {shows} a {hand} {kind} {0}.",
            "{this} {shows} {n0}.", "{this} is a {sketch} of {n0}.", "{this} {is} {n0}.",
            "{see} {n0} in {this}.", "the {kind} in {this} is {0}.",
            "the {kind} written here is {a0}.", "in {this} {someone} {wrote} {n0}.",
            "{someone} {wrote} {n0}.", "what {this} {shows} is {n0}.",
            "the {hand} {kind} shown in the image is {0}.", "{n0} is shown in {this}.",
            "the answer is {0}, a {hand} {kind}.",
            "the image {shows} the {kind} {0}, which is {hand}.",
            "{this} {shows} {n0} in the center.", "the {bw} image {shows} {n0}.",
            "the {kind} {0} is written in {this}.", "{this} {shows} one {kind}, and it is {0}.",
            "what is {hand} here is the {kind} {0}.", "{n0} can be seen here.",
            "the {kind} that {this} {shows} is {0}.", "a {bw} {sketch} of {n0}.",
        ),
        (
            "drawn by hand, the numeral {0} fills {what}.", "{what} {holds} the numeral {0}.",
            "written by hand, that would be {a0}.", "you are looking at {a0} put on paper by hand.",
            "somebody's handwriting spells the figure {0}.", "{what} {holds} {a0} in handwriting.",
        ),
        share=2.4,
    ),
    Category(
        "short", "Right", Claim.NAMED, 1, 90, 10,
        (
            "it is {a0}.", "it's {a0}.", "this is {a0}.", "that is {a0}.", "that's {a0}.",
            "a {hand} {0}.", "the {kind} {0}.", "the {kind} is {0}.", "the answer is {0}.",
            "it shows {a0}.", "it says {0}.", "it reads {0}.", "i see {a0}.", "{see} {a0}.",
            "{n0}.", "this is {0}.", "it is {0}.", "answer: {0}.", "number: {0}", "digit: {0}.",
            "here we see {a0}.", "the {kind} shown is {0}.", "clearly {a0}.", "just {a0}.",
        ),
        (
            "that reads as {a0}.", "looking at {a0} here.", "we've got {a0}.", "result: {0}.",
            "{a0}, plainly.",
        ),
        share=1.8,
    ),
    Category(
        "terse", "Right", Claim.NAMED, 1, 85, 5,
        (
            "{0}", "{0}.", "{0}!", "{a0}", "{a0}.", "{0} ", '"{0}"', "= {0}", "{0}!!", "({0})",
            "- {0}",
        ),
        ("{0};", "'{0}'", "*{0}*"),
        share=1.2,
    ),
    Category(
        "detailed", "Right", Claim.COLOURED, 1, 100, 10,
        (
            "{this} {shows} {n0}, {ink_on_paper}.", "{this} is {n0} {ink_on_paper}.",
            "{this} {shows} a {ink} {0} on a {paper} background.", "a {ink} {0} on {paper}.",
            "{this} {shows} {n0}. it is {ink} on a {paper} background.",
            "the {kind} is {0}. it is drawn {ink_on_paper}.", "{n0}, {ink_on_paper}.",
            "it is {a0}, written {ink_on_paper}.", "{n0} in {ink} on a {paper} background.",
            "on a {paper} background {someone} {wrote} {a0} in {ink}.",
            "{this} {shows} {n0}. the ink is {ink} and the background is {paper}.",
            "the background is {paper} and the {kind} {0} is {ink}.",
            "{see} {n0} with {ink} strokes on a {paper} ground.",
        ),
        (
            "against {paper}, the numeral {0} stands out in {ink}.",
            "{what} {holds} {a0}; its strokes are {ink}, its ground is {paper}.",
            "{ink} handwriting over {paper}: {a0}.",
        ),
        share=1.4, half_right=75,
    ),
    Category(
        "reasoned", "Right", Claim.NAMED, 1, 100, 10,
        (
            "{this} {is} {a0}, because {why0}.", "{why0}, so it is {a0}.",
            "it is {a0} because {why0}.", "{this} {shows} {n0}: {why0}.",
            "since {why0}, this is {n0}.", "{this} {shows} {n0}. {why0}.",
            "{why0}. therefore the {kind} is {0}.", "the {kind} is {0}, as {why0}.",
            "{why0}, which makes it {a0}.", "{n0}. one can tell because {why0}.",
        ),
        (
            "given that {why0}, i read {a0}.", "{why0} - hence {a0}.",
            "what gives it away as {a0} is that {why0}.",
        ),
        share=1.1,
    ),
    Category(
        "hedged", "Unsure", Claim.NAMED, 1, 75, 10,
        (
            "it is {maybe} {a0}.", "{this} {could} {a0}.", "{guess} it is {a0}.",
            "{guess} it is {a0}, {unsure}.", "{maybe} {a0}.", "{this} is {maybe} {n0}.",
            "it looks like {a0}, {unsure}.", "{this} {shows} what {could} {a0}.",
            "{guess} this is {n0}, {unsure}.", "{maybe} {n0}, {unsure}.", "{0}, {maybe}.", "{0}?",
            "{a0}?", "i am not sure, but it could be {a0}.", "{guess} {0}.",
            "hard to say, {maybe} {a0}.", "is it {a0}?",
        ),
        (
            "my best bet would be {a0}.", "if i had to choose, then {a0}.",
            "i'd lean towards {a0}, no promise.", "presumably {a0}.",
        ),
        share=1.2,
    ),
    Category(
        "hedged over two", "Unsure", Claim.NAMED, 2, 55, 10,
        (
            "it could be {a0} or {a1}.", "{this} is either {a0} or {a1}.", "{maybe} {a0} or {a1}.",
            "{a0} or {a1}.", "{0} or {1}", "{0} or {1}?", "{guess} it is {a0} or {a1}.",
            "{this} {could} {a0}, or {maybe} {a1}.", "it might be {a0}, but it might also be {a1}.",
            "{this} {shows} {n0} or {a1}.", "either {0} or {1}, {unsure}.",
            "it is hard to say if it is {a0} or {a1}.",
            "{this} {shows} a {kind}, either {0} or {1}.", "{0}/{1}", "it is {a0}, or {a1}.",
            "it could be {a0}. it could also be {a1}.",
        ),
        (
            "somewhere between {a0} and {a1}.", "torn between {0} and {1}.",
            "one might read {a0} here, another {a1}.",
        ),
    ),
    Category(
        "hedged over three", "Unsure", Claim.NAMED, 3, 40, 5,
        (
            "it could be {a0}, {a1} or {a2}.", "{maybe} {a0}, {a1} or {a2}.", "{0}, {1} or {2}.",
            "{this} is {a0}, {a1} or {a2}.", "either {a0}, {a1} or {a2}, {unsure}.",
            "{guess} it is {0}, {1} or {2}.", "{this} {could} {a0} or {a1} or {a2}.",
            "one of {0}, {1} and {2}.",
        ),
        ("anything from {a0} over {a1} to {a2}.", "{0}? {1}? {2}? who knows."),
        share=0.6,
    ),
    Category(
        "a number", "Vague", Claim.NONE, 0, 40, 40,
        (
            "{this} {shows} a {kind}.", "{this} is a {kind}.", "a {kind}.", "a {hand} {kind}.",
            "{this} {shows} a {hand} {kind}.", "it is some {kind}.", "{see} a {kind} in {this}.",
            "{this} {shows} one {hand} {kind}.", "{someone} {wrote} a {kind}.", "one {kind}.",
            "{this} is a {sketch} of a {kind}.", "a single {kind} is written here.",
            "{this} {shows} a {kind}, {unsure} which one.", "a {kind}, i think.",
        ),
        (
            "some numeral or other.", "{what} {holds} one numeral.",
            "handwriting, a figure of some sort.",
        ),
        share=0.7,
    ),
    Category(
        "vague", "Vague", Claim.NONE, 0, 25, 25,
        (
            "this is an image.", "{this} {shows} {something}.", "an image.", "a picture.",
            "{this} is a {sketch}.", "a {bw} image.", "{this} is a {bw} {sketch}.",
            "{this} {shows} {something} on a background.", "{something}.", "{see} {something}.",
            "{this} is {simple}.", "it is a {simple} {sketch}.", "some handwriting.",
            "{this} {shows} {something}, {unsure}.", "{this} is what you gave me.",
            "there is {something} in the middle.", "a {simple} image with {something}.",
            "this is a picture of {something}.", "handwriting.", "{this} {shows} an object.",
        ),
        ("pixels.", "{what} {holds} stuff.", "just a visual.", "content of some sort."),
        share=1.1,
    ),
    Category(
        "strokes", "Vague", Claim.NONE, 0, 30, 30,
        (
            "{this} {shows} a {line}.", "a {simple} {line}.",
            "{this} is a {bw} {sketch} of a {line}.", "{this} {shows} a {line} drawn by hand.",
            "{see} a {simple} {line}.", "{this} {shows} some lines and curves.",
            "{this} is a {bw} {sketch} with a {line}.", "a few strokes on a background.",
            "{this} {shows} lines that meet.",
        ),
        ("a doodle made with one pen.", "{what} {holds} a squiggle."),
        share=0.5,
    ),
    Category(
        "a shape", "Wrong", Claim.NONE, 0, 15, 15,
        (
            "{this} {shows} a {shape}.", "it is a {shape}.", "a {shape}.", "{this} is a {shape}.",
            "{this} is a {bw} {sketch} of a {shape}.", "the {line} forms a {shape}.",
            "{this} {shows} a {line} in the shape of a {shape}.",
            "{this} {shows} a {simple} {shape}.",
            "{this} is a {bw} {sketch} of a {line} in the form of a {shape}. the {line} is a"
            " {simple} and {simple} {sketch} of the {shape}, with two {simple} lines that meet at a"
            " point.",
            "{this} {shows} a {line} that looks like a {shape}. the {shape} is {simple} and"
            " {simple}.",
            "{this} is a {bw} {sketch} of a {line} that seems to be in the shape of a {shape}.",
            "{this} {shows} the shape of a {shape}. the {line} is a {simple} representation of the"
            " {shape}, with straight lines that cross at one point.",
            "a {line} that appears to be a {shape}, drawn in a {simple} and {simple} way.",
            "{this} {shows} two straight lines intersecting at a point, like a {shape}.",
            "{guess} it is a {shape}.", "{this} {could} a {shape}.", "{maybe} a {shape}, {unsure}.",
            "{this} is a {shape} {ink_on_paper}.",
        ),
        (
            "geometry: a {shape}.", "{what} {holds} a {shape} with even sides.",
            "one perfect {shape} and nothing besides.",
        ),
        share=1.3,
    ),
    Category(
        "a letter", "Wrong", Claim.NONE, 0, 10, 10,
        (
            "{this} {shows} the letter {letter}.", "the letter {letter}.",
            "it is the letter {letter}.", "{this} is a {hand} letter {letter}.",
            "a {hand} {letter}.", "{guess} it is a letter.", "it is an upper case {letter}.",
            "{this} {shows} a {hand} letter.", "{letter}",
            "{this} is the letter {letter} of the alphabet.", "{maybe} the letter {letter}.",
        ),
        ("capital {letter}, from the alphabet.", "alphabetic character {letter}."),
        share=0.6,
    ),
    Category(
        "an object", "Wrong", Claim.NONE, 0, 5, 5,
        (
            "{this} {shows} a {thing}.", "a {thing}.", "it is a {thing}.", "a photo of a {thing}.",
            "{see} a {thing} in {this}.", "{this} {shows} a {thing} next to a {thing}.",
            "{this} is a {sketch} of a {thing}.", "a {simple} {thing} in front of a {thing}.",
            "{guess} it is a {thing}.", "{this} {shows} two {thing}s and a {thing}.",
            "{this} is a {bw} {sketch} of a {thing}. the {thing} is {simple} and {simple}.",
            "the {thing} is standing near a {thing}.", "{this} {shows} 3 {thing}s.",
        ),
        ("a lovely {object} at sunset.", "{what} {holds} a {object}.", "my neighbour's {object}."),
        share=1.0,
    ),
    Category(
        "contradiction", "Contradictory", Claim.NAMED, 2, 35, 5,
        (
            "it is {a0} and it is {a1}.", "it is {a0}. it is {a1}.",
            "{this} {shows} {a0}. {this} {shows} {a1}.", "{a0}. {a1}.", "it is both {a0} and {a1}.",
            "{this} is {a0}. the {kind} is {a1}.", "the {kind} is {0}. the {kind} is {1}.",
            "it is {a0} that is {a1}.", "{0}. {1}.",
        ),
        ("at once {a0} and also {a1}.", "{a0}; equally, {a1}."),
        share=0.7,
    ),
    Category(
        "two digits", "Wrong", Claim.NAMED, 2, 20, 0,
        (
            "{this} {shows} the number {0}{1}.", "two digits: {0} and {1}.", "{0} and {1}.",
            "{this} {shows} two {kind}s, {0} and {1}.", "{0}, {1}", "{see} {a0} next to {a1}.",
            "the digits {0} and {1} are written here.", "{a0} and {a1}.",
        ),
        ("{a0} followed by {a1}.", "a pair: {0} plus {1}."),
        share=0.6,
    ),
    Category(
        "corrected", "Right", Claim.LAST, 2, 85, 10,
        (
            "it looks like {a0} at first, but it is {a1}.", "not {a0} but {a1}.",
            "it is not {a0}, it is {a1}.", "this is not {a0}. it is {a1}.",
            "i first thought of {a0}, but it is {a1}.", "it may look like {a0}, but it is {a1}.",
            "{a0}? no, {a1}.", "no, it isn't {a0}; it is {a1}.",
            "one could mistake it for {a0}, but {this} {shows} {a1}.", "it is {a1}, not {a0}.",
            "{this} {shows} {a1} and not {a0}.", "{a1} rather than {a0}.",
        ),
        ("scratch {a0}, make that {a1}.", "forget {a0}: {a1} it is."),
        share=0.9,
    ),
    Category(
        "negation", "Vague", Claim.NOT_NAMED, 1, 30, 0,
        (
            "it is not {a0}.", "this is not {a0}.", "not {a0}.", "{this} does not show {a0}.",
            "it isn't {a0}.", "anything but {a0}.", "it is no {0}.", "there is no {0} in {this}.",
            "{this} {shows} a {kind}, but not {a0}.", "it cannot be {a0}.", "certainly not {a0}.",
        ),
        ("never in my life is that {a0}.", "whatever it may be, {a0} it is not."),
        share=0.8,
    ),
    Category(
        "odd", "Vague", Claim.ODD, 0, 45, 10,
        (
            "it is an odd {kind}.", "{this} {shows} an odd {kind}.", "an odd {kind}.",
            "the {kind} is odd.", "{this} is a {hand} odd {kind}.", "odd.",
            "the {kind} shown is not even.",
        ),
        ("you can't halve that numeral evenly: odd.", "oddly enough, an odd one."),
        share=0.35,
    ),
    Category(
        "even", "Vague", Claim.EVEN, 0, 45, 10,
        (
            "it is an even {kind}.", "{this} {shows} an even {kind}.", "an even {kind}.",
            "the {kind} is even.", "{this} is a {hand} even {kind}.", "even.",
            "the {kind} shown is not odd.",
        ),
        ("evenly divisible, an even one.", "an even numeral, by all means."),
        share=0.35,
    ),
    Category(
        "below", "Vague", Claim.BELOW, 1, 45, 10,
        (
            "it is a {kind} less than {0}.", "{this} {shows} a {kind} below {0}.",
            "a {kind} smaller than {0}.", "less than {0}.", "the {kind} is lower than {0}.",
        ),
        ("under {0}.",),
        share=0.25,
    ),
    Category(
        "above", "Vague", Claim.ABOVE, 1, 45, 10,
        (
            "it is a {kind} greater than {0}.", "{this} {shows} a {kind} above {0}.",
            "a {kind} bigger than {0}.", "more than {0}.", "the {kind} is higher than {0}.",
        ),
        ("over {0}.",),
        share=0.25,
    ),
    Category(
        "padded", "Padded", Claim.NAMED, 1, 65, 5,
        (
            "{hello} {this} {shows} {n0}. {bye}", "{hello} it is {a0}. {bye}",
            "{hello} {hello} the {kind} is {0}.", "it is {a0}. {bye} {bye}",
            "{hello} {this} is {n0}. {bye}", "{this} {shows} {n0}. {bye} {bye}",
        ),
        (
            "well, well, where do i begin, so much to say about it, but in the end {a0}, one might"
            " add, and so on.",
        ),
        share=0.8,
    ),
    Category(
        "false extra", "Partly right", Claim.NAMED, 1, 50, 5,
        (
            "{this} {shows} {n0} and a {thing}.", "{this} {shows} {n0} next to a {thing}.",
            "a {thing} and {a0}.", "{n0} on a {thing}.", "it is {a0}. there is also a {thing}.",
            "{this} is {n0} with a {thing} behind it.",
        ),
        ("{a0} painted upon a {object}.", "a {object}, besides {a0}."),
        share=0.6,
    ),
    Category(
        "echo", "Off topic", Claim.NONE, 0, 0, 0,
        ("{question}", "{question} {question}", "you ask: {question}"),
        ("the question was: {question}",),
        share=0.3,
    ),
    Category(
        "off topic", "Off topic", Claim.NONE, 0, 0, 0,
        ("{off_topic}",),
        ("{off_topic}",),
        share=1.0,
    ),
    Category(
        "refusal", "No answer", Claim.NONE, 0, 5, 5, ("{refusal}",), ("{refusal}",), share=0.7
    ),
    Category(
        "nonsense", "No answer", Claim.NONE, 0, 0, 0, ("{nonsense}",), ("{nonsense}",), share=0.6
    ),
    Category(
        "empty", "Empty", Claim.NONE, 0, 0, 0,
        ("", "", " ", ".", "...", "-", "\n"),
        ("", "?", "--"),
        share=0.5,
    ),
)
