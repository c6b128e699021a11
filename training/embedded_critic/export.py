"""Writes held-out pictures, in development wording, as a labelled file for `adjudge eval`.

`python -m embedded_critic.export --out DIR` makes `DIR/labelled.jsonl` and the pictures it names.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embedded_critic.digits import load_digits
from embedded_critic.grammar import Response, any_category, respond
from embedded_critic.pictures import Picture, varied_picture
from embedded_critic.rubric import Truth
from embedded_critic.tasks import same_wording_pair
from embedded_critic.texts import Wording
from embedded_critic.trials import SEED, difference, question_of

WORDING = Wording.DEVELOPMENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("build/digits"), help="kept there")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=4, help="per picture, and as many scores")
    options = parser.parse_args()
    _, held_out = load_digits(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([SEED, 29])
    with (options.out / "labelled.jsonl").open("w", encoding="utf-8") as file:
        for index in range(options.images):
            place = len(held_out) // 2 + index  # the first half is the exam's
            pixels, label = held_out.pixels[place], int(held_out.labels[place])
            picture = varied_picture(pixels, label, rng)
            name = f"{index:03}-{label}.png"
            picture.image.save(options.out / name)
            for number, record in enumerate(_records(picture, options.pairs, rng)):
                named = {"id": f"{index:03}-{number:02}", "cluster": index, "images": [name]}
                line = {**named, **record}
                print(json.dumps(line, ensure_ascii=False), file=file)


def _records(picture: Picture, count: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    truth = Truth(picture.digit, picture.dark_on_light, picture.coloured)
    question = question_of(WORDING, rng)

    def draw() -> Response:
        return respond(any_category(rng, WORDING), truth, question, rng, wording=WORDING)

    for _ in range(count):
        first, second = draw(), draw()
        yield _pair("any two", question, first, second, truth)
        right, wrong = same_wording_pair(truth, question, rng, wording=WORDING)
        pair = (right, wrong) if rng.random() < 0.5 else (wrong, right)
        yield _pair("one digit differs", question, *pair, truth)
        response = draw()
        yield {
            "prompt": question,
            "subset": "scores",
            "candidate": response.text,
            "score": response.score(truth),
        }


def _pair(
    subset: str, question: str, first: Response, second: Response, truth: Truth
) -> dict[str, Any]:
    better = difference(first, second, truth)
    preferred = "tie" if not better else "first" if better > 0 else "second"
    candidates = [first.text, second.text]
    return {"prompt": question, "subset": subset, "candidates": candidates, "preferred": preferred}


if __name__ == "__main__":
    main()
