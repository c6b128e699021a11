"""Measures a checkpoint directory: `python -m embedded_critic.evaluate DIR`.

Everything is measured on pictures that were not trained on, with the weights as shipped (bfloat16)
computed in float32, through the server's own reading of the answers. Prints a table and writes
`evaluation.json`.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from PIL import Image

from adjudge_server.images import Picture
from embedded_critic import prompts
from embedded_critic.digits import Digits, load_digits
from embedded_critic.grammar import (
    TIE_BELOW,
    Response,
    Truth,
    Wording,
    any_category,
    renamed,
    respond,
)
from embedded_critic.judging import Comparison, Judge, pearson, spearman, to_picture
from embedded_critic.pictures import plain_picture, varied_picture
from embedded_critic.tasks import same_wording_pair

SEED = 7
RESPONSES = 8  # scored per picture
PAIRS = 4  # compared per picture, of each of two kinds

EXAMPLE = Path(__file__).parents[2] / "examples/images/seven.png"
SEVEN_QUESTION = "What this image presents?"
SEVEN = "This is a handwritten number seven."
CROSS = (
    "The image is a black and white sketch of a line that appears to be in the shape of a cross."
    " The line is a simple and straightforward representation of the cross shape, with two straight"
    " lines intersecting at a point."
)
SEVEN_OTHERS = (
    "7",
    "7!",
    "It is a seven, white on black.",
    "I guess it is a 7, not sure.",
    "one handwritten digit 7",
    "It could be a seven or a one.",
    "This is a handwritten number one.",
    "It is a nine.",
    "It is not a seven.",
    "This is an image.",
    "I don't know.",
    "The capital of France is Paris.",
    "",
)


@dataclass(slots=True)
class Verdicts:
    """Comparisons whose better response is known; always given better first."""

    decided: list[Comparison] = field(default_factory=list)

    def summary(self) -> dict[str, float | int]:
        given = np.array([c.given_order for c in self.decided])
        swapped = np.array([c.swapped_order for c in self.decided])
        margins = np.array([c.margin for c in self.decided])
        return {
            "n": len(margins),
            "accuracy": _share(margins > 0),
            "accuracy_one_order": _share(np.concatenate([given, swapped]) > 0),
            "order_consistent": _share((given > 0) == (swapped > 0)),
        }


def _share(flags: Any) -> float:
    return float(np.mean(flags))


@dataclass(frozen=True, slots=True)
class Sample:
    """A held-out picture and what it shows."""

    picture: Picture
    truth: Truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, default=Path("build/digits"), help="kept there")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seven", type=Path, default=EXAMPLE, help="the well-known seven")
    parser.add_argument("--out", type=Path, help="default: evaluation.json in the checkpoint")
    options = parser.parse_args()
    began = time.monotonic()
    result: dict[str, Any] = {
        "weights": "bfloat16 as shipped, computed in float32",
        "images": options.images,
        "seed": SEED,
    }
    load_digits(options.data)  # downloads, before the parts need it
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        parts = {
            name: pool.submit(_measure_part, options.checkpoint, options.data, options.images, name)
            for name in PARTS
        }
        for name, part in parts.items():
            result[name] = part.result()
            print_part(name, result[name])
    torch.set_num_threads(1)
    result["seven"] = measure_seven(Judge(options.checkpoint), options.seven)
    print_seven(result["seven"])
    print(f"{time.monotonic() - began:.0f} s")
    out = options.out or options.checkpoint / "evaluation.json"
    out.write_text(json.dumps(result, indent=2) + "\n")


PARTS = {
    "phrasings_seen": (Wording.TRAINED, False),
    "phrasings_held_out": (Wording.HELD_OUT, False),
    "phrasings_wide": (Wording.WIDE, False),
    "phrasings_seen_redrawn_pictures": (Wording.TRAINED, True),
}


def _measure_part(checkpoint: Path, data: Path, images: int, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    wording, redrawn = PARTS[name]
    _, held_out = load_digits(data)
    return measure(Judge(checkpoint), samples(held_out, images, varied=redrawn), wording)


def samples(digits: Digits, count: int, *, varied: bool) -> list[Sample]:
    rng = np.random.default_rng([SEED, int(varied)])
    drawn = [
        varied_picture(pixels, int(label), rng) if varied else plain_picture(pixels, int(label))
        for pixels, label in zip(digits.pixels[:count], digits.labels[:count], strict=True)
    ]
    return [Sample(to_picture(p.image), Truth(p.digit, p.dark_on_light)) for p in drawn]


def measure(judge: Judge, pictures: Sequence[Sample], wording: Wording) -> dict[str, Any]:
    """Every figure for one set of pictures and one set of phrasings."""
    readings_before, off_before = judge.readings, judge.off_format
    held_out = wording is Wording.HELD_OUT
    rng = np.random.default_rng([SEED, 11, int(held_out)])
    questions = prompts.HELD_OUT_QUESTIONS if held_out else prompts.QUESTIONS
    expected: list[float] = []
    scored: list[float] = []
    by_category: dict[str, list[tuple[float, float]]] = {}
    any_two, digit_decides, wrong_picture, ties = Verdicts(), Verdicts(), Verdicts(), Verdicts()
    two_images: list[bool] = []
    two_images_pairwise: list[bool] = []
    wrong_expected: list[float] = []
    wrong_scored: list[float] = []
    for index, sample in enumerate(pictures):
        truth = sample.truth
        question = questions[rng.integers(len(questions))]
        drawn = [
            respond(any_category(rng, wording), truth, question, rng, wording=wording)
            for _ in range(RESPONSES)
        ]
        scores = judge.scores(sample.picture, question, [r.text for r in drawn])
        expected += [r.score(truth) for r in drawn]
        scored += scores
        for response, score in zip(drawn, scores, strict=True):
            worth = response.score(truth)
            by_category.setdefault(response.category.name, []).append((worth, score))
        unequal, equal = _any_pairs(truth, question, rng, wording)
        same_words = [
            same_wording_pair(truth, question, rng, wording=wording) for _ in range(PAIRS)
        ]
        pairs = [*unequal, *same_words, *equal]
        compared = iter(
            judge.comparisons(sample.picture, question, [(a.text, b.text) for a, b in pairs])
        )
        any_two.decided += [next(compared) for _ in unequal]
        digit_decides.decided += [next(compared) for _ in same_words]
        ties.decided += compared
        # The same pairs under a picture that shows neither digit named: nothing to go by.
        stranger = _stranger(pictures, index, {d for p in same_words for r in p for d in r.named})
        wrong_picture.decided += judge.comparisons(
            stranger.picture, question, [(a.text, b.text) for a, b in same_words]
        )
        alike = [response for pair in same_words for response in pair]
        wrong_scored += judge.scores(stranger.picture, question, [r.text for r in alike])
        wrong_expected += [r.score(truth) for r in alike]
        # The same two texts under two pictures: each is right under one of them.
        other = _other_digit_sample(pictures, index)
        mine, _ = same_words[0]
        theirs = renamed(mine, (other.truth.digit,))
        texts = [mine.text, theirs.text]
        here, there = (judge.scores(s.picture, question, texts) for s in (sample, other))
        two_images += [here[0] > there[0], there[1] > here[1]]
        [first], [second] = (
            judge.comparisons(s.picture, question, [(mine.text, theirs.text)])
            for s in (sample, other)
        )
        two_images_pairwise += [first.margin > 0, second.margin < 0]
    off_format = {
        "n": judge.readings - readings_before,
        "share": (judge.off_format - off_before) / (judge.readings - readings_before),
    }
    both = Verdicts([*any_two.decided, *digit_decides.decided])
    return {
        "pointwise": {
            "n": len(scored),
            "pearson": pearson(expected, scored),
            "spearman": spearman(expected, scored),
            "mean_absolute_error": float(np.mean(np.abs(np.subtract(expected, scored)))),
        },
        "pairwise": both.summary(),
        "pairwise_any_two": any_two.summary(),
        "pairwise_digit_decides": digit_decides.summary(),
        "ties_called_ties": {
            "n": len(ties.decided),
            "share": _share([c.tie > 0.5 for c in ties.decided]),
            "unequal_called_ties": _share([c.tie > 0.5 for c in both.decided]),
        },
        "same_text_two_images": {
            "n": len(two_images),
            "pointwise": _share(two_images),
            "pairwise": _share(two_images_pairwise),
        },
        "wrong_image_control": {
            **wrong_picture.summary(),
            "pearson": pearson(wrong_expected, wrong_scored),
        },
        "off_format": off_format,
        "by_category": {
            name: {
                "n": len(rows),
                "mean_absolute_error": float(np.mean([abs(a - b) for a, b in rows])),
            }
            for name, rows in sorted(by_category.items())
        },
    }


def _any_pairs(
    truth: Truth, question: str, rng: np.random.Generator, wording: Wording
) -> tuple[list[tuple[Response, Response]], list[tuple[Response, Response]]]:
    """PAIRS pairs of unequal worth, better first, and one of equal worth."""
    unequal: list[tuple[Response, Response]] = []
    equal: list[tuple[Response, Response]] = []
    while len(unequal) < PAIRS or not equal:
        a, b = (
            respond(any_category(rng, wording), truth, question, rng, wording=wording)
            for _ in range(2)
        )
        difference = a.score(truth) - b.score(truth)
        if difference == 0 and not equal:
            equal.append((a, b))
        elif abs(difference) >= TIE_BELOW and len(unequal) < PAIRS:
            unequal.append((a, b) if difference > 0 else (b, a))
    return unequal, equal


def _stranger(pictures: Sequence[Sample], start: int, named: set[int]) -> Sample:
    """The next picture that shows none of the digits named."""
    return next(s for s in _after(pictures, start) if s.truth.digit not in named)


def _other_digit_sample(pictures: Sequence[Sample], start: int) -> Sample:
    shown = pictures[start].truth.digit
    return next(s for s in _after(pictures, start) if s.truth.digit != shown)


def _after(pictures: Sequence[Sample], start: int) -> Iterable[Sample]:
    return [*pictures[start + 1 :], *pictures[:start]]


def measure_seven(judge: Judge, path: Path) -> dict[str, Any]:
    """The well-known seven, and answers about it."""
    with Image.open(path) as image:
        picture = to_picture(image)
    texts = [SEVEN, CROSS, *SEVEN_OTHERS]
    scores = judge.scores(picture, SEVEN_QUESTION, texts)
    rivals = texts[1:]
    compared = judge.comparisons(picture, SEVEN_QUESTION, [(SEVEN, rival) for rival in rivals])
    return {
        "question": SEVEN_QUESTION,
        "scores": dict(zip(texts, scores, strict=True)),
        "margins_of_the_first": {
            rival: {
                "margin": c.margin,
                "given_order": c.given_order,
                "swapped_order": c.swapped_order,
                "preference": c.preference,
            }
            for rival, c in zip(rivals, compared, strict=True)
        },
        "written": judge.written(picture, SEVEN_QUESTION, SEVEN),
    }


def print_part(name: str, part: dict[str, Any]) -> None:
    print(f"\n{name}")
    for title, figures in part.items():
        if title != "by_category":
            print(f"  {title:24} " + "  ".join(f"{k} {_shown(v)}" for k, v in figures.items()))
    worst = sorted(part["by_category"].items(), key=lambda kv: -kv[1]["mean_absolute_error"])[:6]
    errors = ", ".join(f"{k} {v['mean_absolute_error']:.1f}" for k, v in worst)
    print(f"  largest errors           {errors}", flush=True)


def print_seven(part: dict[str, Any]) -> None:
    print(f"\nthe seven: {part['question']}")
    for text, score in part["scores"].items():
        rival = part["margins_of_the_first"].get(text)
        orders = (
            f"{rival['given_order']:+6.1f} {rival['swapped_order']:+6.1f}" if rival else " " * 13
        )
        print(f"  {score:5.1f}  {orders}  {text[:70]!r}")
    print(f"  writes: {part['written']}", flush=True)


def _shown(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
