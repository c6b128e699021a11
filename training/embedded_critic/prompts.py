"""What the critic reads and says, as text: the published prompts, questions, answers.

The two judge prompts are LLaVA-Critic's, byte for byte.
"""

from dataclasses import dataclass

from embedded_critic.phrases import WORDS
from embedded_critic.rubric import TIE_BELOW, Truth

SYSTEM = "You are a helpful assistant."

POINTWISE = (
    "Given an image and a corresponding question, please serve as an unbiased and fair judge to"
    " evaluate the quality of the answer provided by a Large Multimodal Model (LMM). Score the"
    " response out of 100 and explain your reasoning with specific details. Your task is provided"
    " as follows:\nQuestion: [{prompt}]\nThe LMM response: [{candidate}]\nASSISTANT:\n"
)
PAIRWISE = (
    "Given an image and a corresponding question, please serve as an unbiased and fair judge to"
    " evaluate the quality of the answers provided by a Large Multimodal Model (LMM). Determine"
    " which answer is better and explain your reasoning with specific details. Your task is"
    " provided as follows:\nQuestion: [{prompt}]\nThe first response: [{first}]\nThe second"
    " response: [{second}]\nASSISTANT:\n"
)
# The same judgements at a third of the price, for the first part of the curriculum.
SHORT_POINTWISE = "Question: [{prompt}]\nThe LMM response: [{candidate}]\nASSISTANT:\n"
SHORT_PAIRWISE = (
    "Question: [{prompt}]\nThe first response: [{first}]\nThe second response: [{second}]\n"
    "ASSISTANT:\n"
)

SCORE_OPENING = "Score: "
VERDICTS = (
    "The first response is better",
    "The second response is better",
    "The two responses are equally good",
)

QUESTIONS = (
    "What this image presents?",
    "What does this image present?",
    "What digit is this?",
    "What number is this?",
    "Which digit is shown?",
    "Which number is written here?",
    "What is in the picture?",
    "What do you see?",
    "Describe the image.",
    "Describe this picture.",
    "What does the image show?",
    "What is shown in the image?",
    "What is written here?",
    "Which digit do you see in the image?",
    "Read the digit.",
    "What is this?",
    "Please describe the image.",
    "Name the digit.",
    "What number does this picture show?",
    "Can you tell me which number this is?",
    "What has been drawn here?",
    "what digit is it",
    "What is the handwritten number?",
    "Identify the digit in this image.",
    "what is this?",
    "Tell me what you see in this image.",
    "Which numeral is in the photo?",
    "What figure is written by hand here?",
    "Caption this image.",
    "What is depicted?",
    "Look at the image. What is it?",
    "what do you see in this picture?",
    "Recognize the digit.",
    "Give a short description of the image.",
    "Can you describe this image in detail?",
    "What's in this image?",
    "What's the number?",
    "Which digit was drawn?",
    "What does it say?",
    "Transcribe the image.",
)
HELD_OUT_QUESTIONS = (
    "Could you read this for me?",
    "What would you call this figure?",
    "Say which one it is.",
    "Explain the content of the photograph.",
    "Which of the ten digits is it?",
)

CAPTION_FORMS = (
    "{w}",
    "{w}",
    "A handwritten {w}, {c}.",
    "A handwritten {w}, an {p} number.",
    "{p}",
    "This is a handwritten number {w}.",
    "It is a {w}.",
    "The number {d}.",
    "{d}",
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A response and what it is worth."""

    text: str
    score: int
    """0 to 100"""
    label: str
    """A word or two for the reasons."""


def score_answer(response: Judged, shown: str) -> str:
    """`shown` is what the picture shows: "a seven"."""
    return f"Score: {response.score}. {response.label}: the image shows {shown}."


def verdict(first: Judged, second: Judged) -> int:
    """Index into VERDICTS."""
    difference = first.score - second.score
    if abs(difference) < TIE_BELOW:
        return 2
    return 0 if difference > 0 else 1


def verdict_answer(first: Judged, second: Judged, shown: str) -> str:
    return f"{VERDICTS[verdict(first, second)]}. The image shows {shown}."


def caption(truth: Truth, form: str) -> str:
    colours = "dark on light" if truth.dark_on_light else "light on dark"
    parity = "odd" if truth.digit % 2 else "even"
    return form.format(w=WORDS[truth.digit], d=truth.digit, c=colours, p=parity)


def shown(truth: Truth) -> str:
    return f"{'an' if truth.digit == 8 else 'a'} {WORDS[truth.digit]}"
