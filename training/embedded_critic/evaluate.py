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

from embedded_critic.digits import Digits, load_digits
from embedded_critic.grammar import Wording
from embedded_critic.judging import Judge, to_picture
from embedded_critic.pictures import Picture, plain_picture, varied_picture
from embedded_critic.robustness import KINDS, redrawn
from embedded_critic.rubric import Truth
from embedded_critic.shape_trials import measure_shapes
from embedded_critic.shapes import ShapePictures, load_shapes
from embedded_critic.trials import SEED, Sample, attacked, best_of_n, measure, pictures_only

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
    parser.add_argument("--parts", default=",".join(PARTS), help="default: all of them")
    parser.add_argument("--out", type=Path, help="default: evaluation.json in the checkpoint")
    options = parser.parse_args()
    began = time.monotonic()
    result: dict[str, Any] = {
        "weights": "bfloat16 as shipped, computed in float32",
        "images": options.images,
        "seed": SEED,
    }
    load_digits(options.data)  # downloads, before the parts need it
    load_shapes(options.data)
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        parts = {
            name: pool.submit(_measure_part, options.checkpoint, options.data, options.images, name)
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
    """Pictures that were not trained on."""

    digits: Digits
    shapes: ShapePictures
    cache: Path


def _words(wording: Wording, *, varied: bool = False) -> "Part":
    return lambda judge, held_out: measure(judge, samples(held_out.digits, varied=varied), wording)


def _pictures(judge: Judge, held_out: HeldOut) -> dict[str, Any]:
    kinds = {
        kind: [_sample(p) for p in redrawn(kind, held_out.digits, held_out.cache)] for kind in KINDS
    }
    return {kind: pictures_only(judge, chosen) for kind, chosen in kinds.items() if chosen}


Part = Callable[[Judge, HeldOut], dict[str, Any]]
PARTS: dict[str, Part] = {
    "phrasings_held_out": _words(Wording.HELD_OUT),
    "phrasings_trained": _words(Wording.TRAINED),
    "phrasings_held_out_redrawn_pictures": _words(Wording.HELD_OUT, varied=True),
    "phrasings_development": _words(Wording.DEVELOPMENT),
    "pictures": _pictures,
    "attacks": lambda judge, held_out: {"held_out": attacked(judge, samples(held_out.digits))},
    "best_of_n": lambda judge, held_out: best_of_n(judge, samples(held_out.digits)),
    "shapes": lambda judge, held_out: measure_shapes(judge, held_out.shapes),
}


def _measure_part(checkpoint: Path, data: Path, images: int, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    (_, digits), (_, shapes) = load_digits(data), load_shapes(data)
    held_out = HeldOut(
        Digits(digits.pixels[:images], digits.labels[:images]),
        ShapePictures(shapes.pixels[:images], shapes.truths[:images]),
        data,
    )
    return PARTS[name](Judge(checkpoint), held_out)


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
