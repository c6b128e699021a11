"""Measures a checkpoint directory: `python -m embedded_critic.evaluate DIR`.

Everything is measured on pictures that were not trained on, with the weights as shipped (bfloat16)
computed in float32, through the server's own reading of the answers. The wording and the pictures
are those of development; `--exam` takes those that are kept for the last measurement. Prints a
table and writes `evaluation.json`.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from PIL import Image

from embedded_critic.attacks import attacked
from embedded_critic.digits import Digits, load_digits
from embedded_critic.judging import Judge, to_picture
from embedded_critic.pictures import Picture, plain_picture, varied_picture
from embedded_critic.robustness import KINDS, redrawn
from embedded_critic.rubric import Truth
from embedded_critic.selection import best_of_n
from embedded_critic.shape_trials import measure_shapes
from embedded_critic.shapes import ShapePictures, load_shapes
from embedded_critic.texts import Wording
from embedded_critic.trials import SEED, Sample, measure, pictures_only

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, default=Path("build/digits"), help="kept there")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seven", type=Path, default=EXAMPLE, help="the well-known seven")
    parser.add_argument(
        "--exam", action="store_true", help="held-out wording; not while anything is being tuned"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="default: all of them")
    parser.add_argument("--out", type=Path, help="default: evaluation.json in the checkpoint")
    options = parser.parse_args()
    began = time.monotonic()
    result: dict[str, Any] = {
        "weights": "bfloat16 as shipped, computed in float32",
        "images": options.images,
        "seed": SEED,
        "wording": (Wording.HELD_OUT if options.exam else Wording.DEVELOPMENT).value,
    }
    load_digits(options.data)  # downloads, before the parts need it
    load_shapes(options.data)
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        parts = {
            name: pool.submit(
                _measure_part,
                options.checkpoint,
                options.data,
                options.images,
                name,
                options.exam,
            )
            for name in options.parts.split(",")
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


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What was not trained on: half of the pictures for the exam, half for development."""

    digits: Digits
    shapes: ShapePictures
    wording: Wording
    cache: Path


def load_held_out(data: Path, images: int, *, exam: bool) -> HeldOut:
    (_, digits), (_, shapes) = load_digits(data), load_shapes(data)
    first, half = (0, len(digits) // 2) if exam else (len(digits) // 2, len(digits))
    chosen = slice(first, min(first + images, half))
    return HeldOut(
        Digits(digits.pixels[chosen], digits.labels[chosen]),
        ShapePictures(shapes.pixels[chosen], shapes.truths[chosen]),
        Wording.HELD_OUT if exam else Wording.DEVELOPMENT,
        data,
    )


def _pictures(judge: Judge, given: HeldOut) -> dict[str, Any]:
    kinds = {k: [_sample(p) for p in redrawn(k, given.digits, given.cache)] for k in KINDS}
    return {k: pictures_only(judge, chosen, given.wording) for k, chosen in kinds.items() if chosen}


def _shapes(judge: Judge, given: HeldOut) -> dict[str, Any]:
    # There is no development set of these.
    wording = Wording.HELD_OUT if given.wording is Wording.HELD_OUT else Wording.TRAINED
    return measure_shapes(judge, given.shapes, wording)


Part = Callable[[Judge, HeldOut], dict[str, Any]]
PARTS: dict[str, Part] = {
    "phrasings": lambda j, given: measure(j, samples(given.digits), given.wording),
    "trained": lambda j, given: measure(j, samples(given.digits), Wording.TRAINED),
    "redrawn": lambda j, given: measure(j, samples(given.digits, varied=True), given.wording),
    "pictures": _pictures,
    "attacks": lambda j, given: {"wrong_above": attacked(j, samples(given.digits), given.wording)},
    "best_of_n": lambda j, given: best_of_n(j, samples(given.digits), given.wording),
    "shapes": _shapes,
}


def _measure_part(
    checkpoint: Path, data: Path, images: int, name: str, exam: bool
) -> dict[str, Any]:
    torch.set_num_threads(1)
    return PARTS[name](Judge(checkpoint), load_held_out(data, images, exam=exam))


def samples(digits: Digits, *, varied: bool = False) -> list[Sample]:
    rng = np.random.default_rng([SEED, int(varied)])
    return [
        _sample(
            varied_picture(pixels, int(label), rng) if varied else plain_picture(pixels, int(label))
        )
        for pixels, label in zip(digits.pixels, digits.labels, strict=True)
    ]


def _sample(drawn: Picture) -> Sample:
    truth = Truth(drawn.digit, drawn.dark_on_light, drawn.coloured)
    return Sample(to_picture(drawn.image), truth)


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
    if "by_category" not in part:
        return
    worst = sorted(part["by_category"].items(), key=lambda kv: -kv[1]["mean_absolute_error"])[:8]
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
