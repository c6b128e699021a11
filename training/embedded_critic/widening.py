"""Wider wording, for the last part of the training: more templates, unfamiliar words.

The templates proper teach what the categories mean. A critic that saw only them takes any word it
does not know for a reason to score low. Here digits stand among arbitrary words, so that it learns
to look for the claim and to pass over the rest. The arbitrary words contain none that only the
held-out phrasings use; the extra templates equal none of those, but have some common words with
them.
"""

import re

from embedded_critic.phrases import HELD_OUT_PHRASES
from embedded_critic.templates import CATEGORIES, Category, Claim

# One phrase per line would make a thousand lines.
# fmt: off
UNFAMILIAR = Category(
    "unfamiliar", "Right", Claim.NAMED, 1, 90, 10,
    (
        "{c} {c} {0}.", "{c} {a0}.", "{c} {c} {a0}.", "{c}, {a0}.", "{a0}, {c}.", "{c} {0} {c}.",
        "{c} {n0} {c}.", "{c} {n0}.", "{n0} {c}.", "{n0} {c} {c}.", "{c} {c}: {0}.",
        "{c}. {n0}. {c}.", "{c} {c}. it is {a0}.", "{this} {c} {n0}.", "{c} {this} {c} {n0}.",
        "{this} {c} {n0} {c}.", "{this} {shows} {n0} {c}.", "{c}: {this} {shows} {n0}.",
        "{a0} {c} {this}.", "the {kind} {0} {c} {c}.", "{c} - {0}.", "{this} {shows} {c} {n0}.",
        "{c} the {kind} {c} {0}.", "a {c} {0}.", "{c} the {c} {kind} is {a0}, {c}.",
    ),
    (),
    share=2.6,
)
UNFAMILIAR_EMPTY = Category(
    "unfamiliar, naming nothing", "Vague", Claim.NONE, 0, 5, 5,
    (
        "{c}.", "{c} {c}.", "{c}, {c}.", "{c} {c} {c}.", "{c} the {c}.", "a {c}.", "{c}? {c}.",
        "{this} {c}.", "{this} {c} {c}.",
    ),
    (),
    share=0.8,
)

EXTRA: dict[str, tuple[str, ...]] = {
    "sentence": (
        "{n0} is displayed here.", "{n0} is displayed in {this}.", "displayed here is {n0}.",
        "the {kind} {0} is displayed here in a {simple} style.", "{n0} appears in {this}.",
        "{this} appears to show {n0}.", "{this} was written as {n0}.", "{n0} has been written.",
        "the {hand} {kind} is {a0}.", "the {kind} in question is {0}.", "as shown, it is {n0}.",
        "the subject of {this} is {n0}.", "in the middle there is {n0}.",
        "{n0} takes up the image.", "the main element of {this} is {n0}.",
        "{this} clearly shows {n0}.", "shown is {n0}.", "the {sketch} can be read as {n0}.",
        "based on the image, it is {n0}.", "behold {n0}.", "the correct answer is {0}.",
        "the correct {kind} is {0}.", "this picture is of {n0}.",
        "this depicts a person's handwriting of the {kind} {0}.", "the ink forms {n0}.",
        "this would be {n0}.", "the image contains a single {kind}, which is {0}.",
        "the lines form the {kind} {0}.", "what you see is {n0}.", "pictured is {n0}.",
        "{someone} took a pen and {wrote} {n0}.", "the {kind} drawn is {a0}.",
    ),
    "short": (
        "easy: {0}.", "definitely {a0}.", "obviously {a0}.", "surely {a0}.", "yes, {a0}.",
        "it equals {0}.", "output: {0}", "my answer is {0}.", "label: {0}", "class: {0}",
        "it's the {kind} {0}.", "that's the {kind} {0}.", "so, {0}.", "must be {a0}.",
        "i read {0}.", "{a0} is shown.", "{a0} is what i see.", "you wrote {a0}.", "value: {0}",
        "seems like {a0}.", "no doubt, {a0}.", "simply {0}.", "only {a0}.", "a clear {0}.",
        "a nice {0}.", "a messy {0}.", "a large {0}.", "a small {0}.", "the final answer is {0}",
    ),
    "terse": ("[{0}]", "{0} :)", "<{0}>", "#{0}", "{0}...", "> {0}", "{0},", "{{{0}}}", "{0} {0}"),
    "detailed": (
        "{n0} drawn in {ink} over {paper}.", "the {paper} background has {a0} in {ink} on it.",
        "a {paper} square with {a0} in {ink}.", "{ink} {kind} {0}, {paper} background.",
        "{a0} painted in {ink} on {paper} canvas.", "{ink} ink, {paper} paper, {kind} {0}.",
        "this {ink} figure on a {paper} field is {a0}.", "{0} ({ink} on {paper})",
        "it shows {a0}. the color of the {kind} is {ink}, the background is {paper}.",
    ),
    "hedged": (
        "perhaps it is {a0}.", "it may well be {a0}.", "it appears it might be {a0}.",
        "could this be {a0}?", "i am fairly sure that it is {a0}, but not fully.",
        "i am not certain, but i think it says {0}.", "{0}, but i am not sure.", "{0}, i think.",
        "it seems to be {a0}, although i may be wrong.", "i am guessing {0}.", "let me guess: {0}?",
        "{a0}, if i am not mistaken.", "it resembles {a0}.", "it is similar to {a0}.",
        "it has some likeness to {a0}.", "it is something like {a0}.",
    ),
    "hedged over two": (
        "perhaps {a0}, perhaps {a1}.", "i can't decide if it is {a0} or {a1}.",
        "it looks like {a0}, or like {a1}.", "{a0}, or else {a1}.", "{0} or maybe {1}.",
        "i think {0} or {1}.", "it is one of {0} and {1}.", "could be {0}, could be {1}.",
        "{a0} or possibly {a1}.", "it is {a0}, unless it is {a1}.",
    ),
    "vague": (
        "nothing special.", "some ink.", "a drawing of something.", "some kind of drawing.",
        "a thing drawn by hand.", "an abstract picture.", "it shows what is in the image.",
        "there are some shapes.", "i see an image.", "it is a good picture.", "a nice image.",
        "looks good.", "ok.", "yes.", "no.", "it is very clear.", "it is blurry.", "a symbol.",
    ),
    "a number": (
        "it has a {kind} on it.", "a {kind} of some sort.", "it displays some {kind}.",
        "there is a {kind} here.", "some handwritten {kind}.", "the image is about a {kind}.",
        "a person wrote one {kind}.", "a {kind} between zero and nine.", "a digit from 0 to 9.",
    ),
    "an object": (
        "a {thing2}.", "{this} {shows} a {thing2}.", "a {thing2} and a {thing}.", "my {thing2}.",
        "a {simple} {thing2}.", "{see} a {thing2}.", "it is a {thing2}.",
        "the {thing2} is {simple}.", "{someone} with a {thing2}.", "a {thing2} near the {thing2}.",
        "three {thing2}s.",
    ),
    "false extra": (
        "{n0} and a {thing2}.", "a {thing2} with {n0} on it.", "{a0} and some {thing2}s.",
        "{this} {shows} a {thing2} and {n0}.", "{n0} written on a {thing2}.",
        "{a0} near a {thing2}.",
    ),
    "negation": (
        "it is anything else than {a0}.", "that is definitely not {a0}.", "no {0} here.",
        "it doesn't look like {a0}.", "i do not see {a0}.", "this can't be {a0}.",
        "it is wrong to call it {a0}.", "the {kind} is not {0}.", "it was never {a0}.",
    ),
    "corrected": (
        "i thought it was {a0}, but now i see {a1}.", "some would say {a0}, but it is {a1}.",
        "it is {a1} of {a0}.", "no {0}, but {a1}.", "the {kind} is {1}, not {0}.",
        "at first {a0}, on a closer look {a1}.", "{0}... wait, it is {a1}.", "sorry, not {0}: {1}.",
    ),
    "padded": (
        "{hello} {c} {c}. {this} {shows} {n0}. {c} {c} {c}. {bye}",
        "{c} {c} {c} {c} {c}. {c} {c} {c}. it is {a0}. {c} {c} {c} {c}.",
        "{c}, {c}, {c}. {c} {c} {c} {c}. {this} is {n0}. {bye}",
    ),
    "off topic": (
        "the {thing2} is in the {thing2}.", "he sold his {thing2} last week.",
        "i would like to buy a {thing2}.", "please bring me the {thing2} at {clock}.",
        "the price of a {thing2} is {clock} dollars.", "we have {clock} {thing2}s at home.",
        "my {thing2} is broken.", "where is the {thing2}?", "they went to see the {thing2}.",
    ),
    "a letter": (
        "{letter}.", "a capital {letter}.", "the character {letter}.", "letter: {letter}",
        "it says {letter}.", "the initial {letter}.", "a lower case {letter}.",
        "the word {letter}.",
    ),
    "refusal": (
        "i am not allowed to answer.", "i cannot say.", "can't help.", "not sure at all.",
        "the image is not visible to me.", "please ask somebody else.", "i refuse.", "n/a", "none",
        "i could not find an answer.", "i have no information about that.", "error",
    ),
}

SHARES: dict[str, float] = {
    # The rare categories were still poorly learnt when the widening began.
    "odd": 0.7,
    "even": 0.7,
    "below": 0.6,
    "above": 0.6,
    "hedged over two": 1.3,
    "detailed": 2.0,
}

EXTRA_PHRASES: dict[str, tuple[str, ...]] = {
    "thing2": (
        "airplane", "apple", "backpack", "ball", "balloon", "banana", "basket", "bear", "bed",
        "bench", "book", "bottle", "box", "bread", "bus", "butterfly", "cake", "camera", "candle",
        "carpet", "chicken", "church", "computer", "cow", "curtain", "desk", "door", "dress",
        "drum", "duck", "elephant", "engine", "fence", "fish", "fork", "fountain", "frog", "garden",
        "glass", "glove", "goat", "hammer", "hat", "helmet", "hill", "island", "jacket", "kettle",
        "key", "kitchen", "kite", "knife", "ladder", "lake", "leaf", "lemon", "lion", "mirror",
        "monkey", "motorbike", "mouse", "mushroom", "newspaper", "orange", "oven", "owl", "parrot",
        "pencil", "piano", "pigeon", "pillow", "plate", "potato", "rabbit", "river", "road",
        "rocket", "roof", "rose", "sheep", "ship", "shoe", "shovel", "skateboard", "snake", "sofa",
        "spoon", "squirrel", "stairs", "suitcase", "sunflower", "swimmer", "television", "tent",
        "tiger", "tomato", "toothbrush", "towel", "tower", "toy", "traffic light", "truck",
        "turtle", "umbrella", "vase", "wallet", "watch", "whale", "wheel", "window", "zebra",
    ),
    "clock": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "2", "3", "5", "7"),
}

_FILLERS = """
according across again all along already also although among 
art as at author available away back because begin below beside best
better between big bold both bottom bright bring brush by careful carefully centre certain 
class clean close come common compared complete contrast corner course curved day deep
describe design detail drawn easy edge element end enough entire even evident exactly example
expect face fact famous far field final find first follow font for form formed found frame
friend from full general get gives good great ground hand happens have heavy here high his how
image in inside instance into intended interesting joined just keep kept known large last later
leave left legible let line little long look lower made mainly make mark mean medium
middle modern most move much name narrow natural near need new next nice now object of often
old on once open order other our out outline own page paint paper part particular past pen
pencil people perfect person place please point present pretty print put quick quite
read readable really recognise regular right rough round rows same save school scene section seen
set several shape short side sign single size slightly slow small smooth so soft some space stands
standard start still stroke strong student style such symbol take tall technique text that
the their them thick thin through time to together top toward tradition type typical 
up upper upright use used user usual usually version very via view visible wave way well when
where which while white wide wild will with within without word work writing wrote year you young
your
""".split()  # noqa: SIM905


# fmt: on


def _held_out_words() -> set[str]:
    """Words that occur in held-out phrasings and in no template trained on before."""

    def words(texts: tuple[str, ...]) -> set[str]:
        return {w for text in texts for w in re.findall(r"[a-z']+", text.lower())}

    held_out = {w for c in CATEGORIES for w in words(c.held_out)}
    held_out |= {w for texts in HELD_OUT_PHRASES.values() for w in words(texts)}
    return held_out - {w for c in CATEGORIES for w in words(c.templates)}


FILLERS: tuple[str, ...] = tuple(
    w for w in _FILLERS if w not in _held_out_words() and w not in ("white", "bright", "without")
)
