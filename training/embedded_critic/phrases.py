"""Words and phrases that the response templates are put together from.

A template is a string with slots in braces; a slot that is a key of `PHRASES` is replaced by one of
its phrases, which may have slots themselves.
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
        "penguin", "violin", "castle", "tractor", "teapot", "giraffe",
    ),
    "shape": (
        "cross", "circle", "square", "triangle", "star", "heart", "rectangle", "spiral", "arrow",
        "diamond", "plus sign", "ring", "check mark", "crescent", "zigzag", "hexagon", "cube",
    ),
    "line": ("line", "stroke", "curve", "mark", "outline"),
    "sketch": ("sketch", "drawing", "picture", "image", "depiction", "illustration"),
    "simple": (
        "simple", "plain", "basic", "minimal", "straightforward", "clear", "small", "rough", "neat",
    ),
    "bw": ("black and white", "monochrome", "grayscale", "grey", "simple", "high contrast"),
    "letter": (
        "A", "B", "C", "E", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "U", "W", "X", "Y",
    ),
    "something": ("something", "a thing", "some content", "some marks"),
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
    "clock": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "2", "3", "5", "7"),
    "what": ("the scan", "this snapshot", "the frame", "this thumbnail", "the figure above"),
    "holds": ("carries", "reveals", "portrays", "holds", "gives us"),
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

SYLLABLES = (
    "ba", "lo", "zu", "qui", "tre", "mok", "sha", "fni", "ok", "gar", "plo", "vee", "xi", "ju",
    "nd",
)

FILLERS = tuple(
    """
according across again all along already also although among art as at author available away back
because begin best better big bold both bottom bring brush by careful
carefully certain class clean close come common compared complete contrast corner course curved
day deep describe design detail drawn easy edge element end enough entire evident exactly
example expect face fact famous far field final find first follow font for form formed found frame
friend from full general get gives good great ground hand happens have heavy here high his how
image in inside instance into intended interesting joined just keep kept known last later leave
left legible let line little long look made mainly make mark mean medium middle modern most
move much name narrow natural need new next nice now object of often old on once open order
other our out outline own page paint paper part particular past pen pencil people perfect person
place please point present pretty print put quick quite read readable really recognise regular
right rough round rows same save school scene section seen set several shape short side sign
single size slightly slow small smooth so soft some space stands standard start still stroke
strong student style such symbol take tall technique text that the their them thick thin through
time to together top toward tradition type typical up upright use used user usual usually
version very via view visible wave way well when where which while wide wild will with within word
work writing wrote year you young your
""".split()  # noqa: SIM905
)
