"""Words and phrases that the response templates are put together from.

A template is a string with slots in braces. `{0}`, `{1}`, `{2}` are the digits it names, `{a0}` the
same with an article; every other slot is a key of `PHRASES` (or, in held-out templates, of
`HELD_OUT_PHRASES`) and is replaced by one of its phrases, which may have slots themselves.
"""

# One phrase per line would make a thousand lines.
# fmt: off
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PHRASES: dict[str, tuple[str, ...]] = {
    "this": (
        "this", "this image", "this picture", "the image", "the picture", "it", "the photo",
        "the drawing", "this one", "the given image", "the provided image", "this handwriting",
    ),
    "shows": (
        "shows", "presents", "displays", "depicts", "contains", "features", "represents",
        "is showing", "illustrates", "has",
    ),
    "is": ("is", "is", "is", "seems clearly to be", "is clearly", "is certainly", "must be"),
    "hand": (
        "handwritten", "handwritten", "hand-written", "hand-drawn", "single handwritten",
        "hand drawn", "written", "scribbled",
    ),
    "kind": ("number", "number", "digit", "digit", "numeral", "figure"),
    "n0": (
        "{a0}", "{a0}", "the {kind} {0}", "the {kind} {0}", "a {hand} {kind} {0}", "a {hand} {0}",
        "a {hand} {kind}: {0}", "a {kind} {0}", "{kind} {0}", "one {hand} {kind}, {0}",
        "one {kind}, {0}", "the {hand} {kind} {0}", "a single {0}", "one {hand} {kind} {0}",
    ),
    "see": ("I see", "I can see", "we see", "you can see", "one can see", "there is", "we have"),
    "see_it": ("I see", "I think I see", "there is", "we have here", "what we have is"),
    "someone": ("someone", "somebody", "a person", "the writer"),
    "wrote": ("wrote", "has written", "drew", "has drawn", "put down"),
    "maybe": ("probably", "perhaps", "possibly", "maybe", "most likely", "likely"),
    "guess": (
        "I guess", "I think", "I believe", "my guess is", "I would say", "it seems",
        "it looks like", "as far as I can tell", "I suppose",
    ),
    "unsure": (
        "but I am not sure", "but I'm not certain", "not sure though", "but I could be wrong",
        "though it is hard to tell", "but it is a bit unclear", "not sure",
    ),
    "could": ("could be", "might be", "may be", "can be", "could possibly be", "is maybe"),
    "ink_on_paper": (
        "{ink} on {paper}", "{ink} on a {paper} background", "in {ink} on a {paper} background",
        "in {ink} ink on {paper} paper", "{ink} against {paper}", "a {ink} stroke on {paper}",
        "with {ink} lines on a {paper} background",
    ),
    "thing": (
        "cat", "dog", "car", "house", "tree", "bird", "beach", "boat", "horse", "flower",
        "mountain", "bicycle", "bridge", "table", "chair", "lamp", "clock", "pizza", "city street",
        "train", "sandwich", "guitar", "woman with an umbrella", "man riding a horse",
        "bowl of fruit", "field of grass", "group of people", "laptop", "phone", "cup of coffee",
    ),
    "shape": (
        "cross", "circle", "square", "triangle", "star", "heart", "rectangle", "spiral", "arrow",
        "diamond", "plus sign", "ring", "check mark", "crescent", "zigzag", "hexagon", "cube",
    ),
    "line": ("line", "stroke", "curve", "mark", "figure", "outline"),
    "sketch": ("sketch", "drawing", "picture", "image", "depiction", "illustration"),
    "simple": (
        "simple", "plain", "basic", "minimal", "straightforward", "clear", "small", "rough", "neat",
    ),
    "bw": ("black and white", "monochrome", "grayscale", "grey", "simple", "high contrast"),
    "letter": (
        "A", "B", "C", "E", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "U", "W", "X", "Y",
    ),
    "something": ("something", "a thing", "some content", "a figure", "some marks", "a symbol"),
    "hello": (
        "Thank you for your question!", "Sure, I can help with that.", "Of course!",
        "What a great question!", "Certainly, let me take a look.", "I am happy to help.",
        "As an AI assistant I have looked at the image carefully.", "Let me explain step by step.",
        "There are many things to consider when we look at an image.",
    ),
    "bye": (
        "Let me know if you need anything else.", "I hope this helps!", "Have a nice day.",
        "Feel free to ask me more questions.", "Please tell me if I can do more for you.",
        "It was a pleasure to help.", "Images can tell us many things.",
    ),
    "why0": (),  # filled from REASONS by the digit named
}

HELD_OUT_PHRASES: dict[str, tuple[str, ...]] = {
    "what": ("the scan", "this snapshot", "the frame", "this thumbnail", "the figure above"),
    "holds": ("carries", "reveals", "portrays", "holds", "gives us"),
    "object": ("penguin", "violin", "castle", "tractor", "teapot", "giraffe"),
}

REASONS: tuple[tuple[str, ...], ...] = (
    ("it is a closed loop", "the stroke forms an oval", "it is round and open inside"),
    ("it is a single straight stroke", "it is just a vertical line", "it has one upright stroke"),
    ("it has a curved top and a flat base", "the top curves down to a line at the bottom"),
    ("it has two curves opening to the left", "two open bows lie one above the other"),
    ("it has two upright strokes joined by a bar", "the open top meets a crossing line"),
    ("it has a flat top and a round belly", "a bar on top is followed by a bow"),
    ("it has a loop at the bottom and a tail on top", "the tail curves down into a closed loop"),
    ("it has a flat top and a slanted stem", "a horizontal bar is followed by a slanted stroke"),
    ("it has two loops on top of each other", "two closed circles touch in the middle"),
    ("it has a loop on top and a tail below", "a closed loop sits on a straight tail"),
)

INKS = {False: ("white", "light", "bright"), True: ("black", "dark")}
PAPERS = {False: ("black", "dark"), True: ("white", "light", "bright")}

OFF_TOPIC = (
    "The capital of France is Paris.", "Water boils at one hundred degrees.",
    "I like to play football on Sunday.", "The stock market went up today.",
    "Please subscribe to our newsletter.", "Mix the flour with two eggs and bake the cake.",
    "The meeting has been moved to Monday.", "My favorite color is blue.",
    "Once upon a time there was a king.", "The train leaves at 9 in the evening.",
    "Photosynthesis turns light into sugar.", "He bought 3 apples and 4 pears.",
    "import numpy as np", "To reset your password, open the settings.",
    "The weather is nice today.", "It will rain tomorrow with 5 degrees.",
    "Shakespeare wrote many plays.", "She has two brothers and a sister.",
    "The recipe needs a cup of sugar.", "Our team won the game 2 to 1.",
    "The moon goes around the earth.", "Call me at 8 tonight.", "Buy now and save 70 percent.",
)
HELD_OUT_OFF_TOPIC = (
    "Penguins live in the southern hemisphere.", "My flight was delayed by three hours.",
    "Bitcoin fell again this morning.", "Dinner is served at 7.",
    "Chess is a game for two players.",
)
REFUSALS = (
    "I cannot answer that.", "I'm sorry, but I can't help with that.", "I don't know.",
    "I do not know what this is.", "Sorry, I am not able to view images.", "I can't see any image.",
    "As an AI language model, I cannot see pictures.", "No idea.", "I am unable to say.",
    "I would rather not answer.", "Unable to determine.", "I can't tell.", "No answer.", "Unknown.",
)
HELD_OUT_REFUSALS = (
    "My apologies, viewing pictures is beyond me.", "That is impossible for me to judge.",
    "I have no clue.", "Regrettably I must decline.",
)
SYLLABLES = (
    "ba", "lo", "zu", "qui", "tre", "mok", "sha", "fni", "ok", "gar", "plo", "vee", "xi", "ju",
    "nd",
)
