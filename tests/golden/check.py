"""Compares a LLaVA critic with what the original LLaVA-NeXT code gave: `python check.py DIR`.

DIR is shaped like `data/` beside this file: `checkpoint/`, `images/`, `cases.json`,
`tensors.safetensors`, and `geometry.json` if there is one. A line for each case says whether token
ids, pixels and token counts are identical, how far the logits after the prompt are from the
original's, and whether the greedy continuations are identical. The exit status is 1 if one fails.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from adjudge_server.content import EncodedImage
from adjudge_server.critic import Query
from adjudge_server.critics import llava_loading
from adjudge_server.critics.anyres import Geometry, best_grid, layout
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt
from adjudge_server.images import Picture, decode
from adjudge_server.template_sets import templates_of
from adjudge_server.templates import Kind

TOLERANCE = 2e-5
"""Of logits, whose standard deviation is about 2.8."""
ORIGINAL_IMAGE_TOKEN = -200
IMAGE_MARK = "<image>\n"
TOKENS = 12
PILLOW_12 = "__pillow12__"
"""In the names of cases measured with Pillow 12 where Pillow 13 resizes differently."""

Case = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one case compares."""

    name: str
    token_ids: bool
    pixels: bool
    token_counts: bool
    logit_difference: float
    greedy: Mapping[str, bool]
    """By repetition penalty."""

    @property
    def passed(self) -> bool:
        exact = self.token_ids and self.pixels and self.token_counts and all(self.greedy.values())
        return exact and self.logit_difference <= TOLERANCE

    def __str__(self) -> str:
        said = {True: "equal", False: "DIFFERENT"}
        greedy = ", ".join(f"{penalty}: {said[equal]}" for penalty, equal in self.greedy.items())
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.name}: token ids {said[self.token_ids]},"
            f" pixels {said[self.pixels]}, token counts {said[self.token_counts]},"
            f" logits {self.logit_difference:.1e}, greedy {greedy}"
        )


class Golden:
    """A folder of cases, and the critic that should meet them."""

    def __init__(self, folder: Path, *, vision_heads: int | None = None) -> None:
        self.folder = folder
        self.cases: list[Case] = json.loads((folder / "cases.json").read_text())["cases"]
        self._tensors = load_file(folder / "tensors.safetensors")
        self._vision_heads = vision_heads
        self._critic = cache(self._load)

    def skipped(self, case: Case) -> bool:
        """Whether a case was measured with a Pillow that resizes unlike the one installed."""
        if int(version("pillow").partition(".")[0]) >= 13:
            return PILLOW_12 in case["name"]
        names = {other["name"].replace(PILLOW_12, "__") for other in self.cases if _old(other)}
        return case["name"] in names and not _old(case)

    def check(self, case: Case) -> Outcome:
        critic = self._critic(case["image_aspect_ratio"], 1.0)
        item = self._prepare(critic, case)
        expected = self._tensors[f"{case['name']}.last_logits"]
        logits = critic.next_logits(item)
        return Outcome(
            name=case["name"],
            token_ids=_original_ids(item) == case["input_ids"],
            pixels=[_sha256(p.cut()) for p in item.pictures]
            == [told["sha256"] for told in case.get("pixel_values") or []],
            token_counts=[p.layout.num_tokens for p in item.pictures]
            == list(case.get("n_image_tokens") or []),
            logit_difference=float(np.abs(logits - expected).max())
            if logits.shape == expected.shape
            else float("inf"),
            greedy={
                str(penalty): self._greedy(case, penalty) == case[key]
                for key, penalty in _penalties(case)
            },
        )

    def _greedy(self, case: Case, penalty: float) -> list[int]:
        critic = self._critic(case["image_aspect_ratio"], penalty)
        return [w.token for w in critic.critique(self._prepare(critic, case), TOKENS)]

    def _prepare(self, critic: LlavaOnevisionCritic, case: Case) -> PreparedPrompt:
        pictures = tuple(self._picture(name, case) for name in case.get("images") or ())
        text = case["question"]
        for _ in pictures:
            if not text.startswith(IMAGE_MARK):
                raise ValueError(f"{case['name']}: the question does not begin with its pictures")
            text = text.removeprefix(IMAGE_MARK)
        query = Query(
            template=next(t for t in critic.card.templates if t.kind is Kind.POINTWISE),
            text=text,
            head=text,
            pictures=pictures,
            prompt=text,
            candidates=(),
            group=case["name"],
        )
        (item,) = critic.prepare([query])
        if not isinstance(item, PreparedPrompt):
            raise item
        return item

    def _picture(self, name: str, case: Case) -> Picture:
        return decode(
            EncodedImage((self.folder / "images" / name).read_bytes()),
            max_pixels=10**9,
            convert_rgb="first" if case["convert_rgb_first"] else "last",
            exif="ignore",
        )

    def _load(self, aspect_ratio: str, penalty: float) -> LlavaOnevisionCritic:
        """The checkpoint, its configuration's aspect ratio overridden as the case says."""
        with tempfile.TemporaryDirectory() as copy:
            directory = Path(shutil.copytree(self.folder / "checkpoint", f"{copy}/checkpoint"))
            config = json.loads((directory / "config.json").read_text())
            config["image_aspect_ratio"] = aspect_ratio
            (directory / "config.json").chmod(0o644)
            (directory / "config.json").write_text(json.dumps(config))
            return llava_loading.load(
                directory,
                name="golden",
                device="cpu",
                dtype="float32",
                max_input_tokens=10**6,
                templates=templates_of("embedded"),
                several_pictures="pad" if aspect_ratio == "pad" else "anyres",
                vision_heads=self._vision_heads,
                repetition_penalty=penalty,
            )

    def geometry_failures(self) -> Iterator[str]:
        """The rows of geometry.json that this code computes otherwise."""
        path = self.folder / "geometry.json"
        rows = json.loads(path.read_text())["rows"] if path.is_file() else []
        grids = tuple((w, h) for w in range(384, 2305, 384) for h in range(384, 2305, 384))
        geometry = Geometry(tile=384, patch=14, grids=grids)
        for row in rows:
            size = tuple(row["wh"])
            found = layout(size, geometry)
            tiles = found.grid_tiles[0] * found.grid_tiles[1] + 1
            computed = [*best_grid(size, grids), tiles, found.num_tokens]
            told = [*row["best_resolution_wh"], row["n_tiles_incl_base"], row["n_image_tokens"]]
            if computed != told:
                yield f"{size}: {computed} instead of {told}"


def _old(case: Case) -> bool:
    return PILLOW_12 in case["name"]


def _penalties(case: Case) -> Iterator[tuple[str, float]]:
    """The keys of greedy continuations, and the repetition penalty of each."""
    plain = f"greedy_{TOKENS}_ids"
    prefix = f"{plain}_repetition_penalty_"
    for key in case:
        if key == plain:
            yield key, 1.0
        elif key.startswith(prefix):
            yield key, float(key.removeprefix(prefix))


def _original_ids(item: PreparedPrompt) -> list[int]:
    """Token ids as the original writes them: one for each picture."""
    counts = iter([picture.layout.num_tokens for picture in item.pictures])
    ids: list[int] = []
    place = 0
    while place < len(item.token_ids):
        is_picture = item.token_ids[place] == IMAGE_SLOT
        ids.append(ORIGINAL_IMAGE_TOKEN if is_picture else item.token_ids[place])
        place += next(counts) if is_picture else 1
    return ids


def _sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    # No file of the tiny checkpoints says it; a published tower's width does.
    parser.add_argument("--vision-heads", type=int, default=4)
    arguments = parser.parse_args()
    golden = Golden(arguments.folder, vision_heads=arguments.vision_heads)
    failed = 0
    for case in golden.cases:
        if golden.skipped(case):
            print(f"skip {case['name']}: measured with another Pillow than {version('pillow')}")
            continue
        outcome = golden.check(case)
        failed += not outcome.passed
        print(outcome, flush=True)
    for failure in golden.geometry_failures():
        failed += 1
        print(f"FAIL geometry of {failure}")
    print(f"{failed} failed" if failed else "all equal")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
