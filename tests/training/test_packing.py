"""What is trained is what is served: packed rows against plain transformers, one at a time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import LlavaOnevisionForConditionalGeneration

from embedded_critic.items import Exercise
from embedded_critic.model import Critic
from embedded_critic.packing import Encoded, Packer
from embedded_critic.rubric import Truth
from embedded_critic.tasks import CURRICULUM, draw_exercise
from embedded_critic.tokenizer import Encoder
from embedded_critic.tower import features
from embedded_critic.views import View, view_of

WEIGHTS = Path(__file__).parents[2] / "server/adjudge_server/embedded"
SIZES = ((28, 28), (40, 28), (28, 60), (300, 300), (9, 100))


@pytest.fixture(scope="module")
def model() -> LlavaOnevisionForConditionalGeneration:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(
        WEIGHTS, dtype=torch.float32, attn_implementation="sdpa"
    )


@pytest.fixture(scope="module")
def packer() -> Packer:
    return Packer(Encoder(Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))), lanes=5, lane=112)


def view(size: tuple[int, int], rng: np.random.Generator) -> View:
    noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return view_of(Image.fromarray(noise), Truth(int(rng.integers(10)), dark_on_light=True))


def exercise(rng: np.random.Generator, pairwise: bool) -> Exercise:
    phase = replace(CURRICULUM[-1], pairwise=float(pairwise), reasons=0.5)
    return draw_exercise(Truth(int(rng.integers(10)), False), phase, rng)


def one_at_a_time(
    model: LlavaOnevisionForConditionalGeneration,
    packer: Packer,
    item: Encoded,
    seen: View,
    size: tuple[int, int],
) -> torch.Tensor:
    """Logits before each id of `after` that is trained on."""
    top, left = seen.kept
    num_image = 16 + top * (left + 1)
    image = [packer.encoder.image] * num_image
    ids = [*packer.head, *image, *item.before, *item.after]
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([ids]),
            pixel_values=torch.from_numpy(seen.pixels)[None],
            image_sizes=torch.tensor([[size[1], size[0]]]),
        ).logits[0]
    first = len(ids) - len(item.after)
    places = [first + k - 1 for k, weight in enumerate(item.weights) if weight]
    return logits[places]


@pytest.mark.parametrize("pairwise", [False, True], ids=["pointwise", "pairwise"])
def test_packed_rows_equal_single_sequences(
    model: LlavaOnevisionForConditionalGeneration, packer: Packer, pairwise: bool
) -> None:
    rng = np.random.default_rng([5, pairwise])
    views = [view(size, rng) for size in SIZES]
    encoded = []
    for _ in SIZES:
        drawn = exercise(rng, pairwise)
        encoded.append(packer.encode([*drawn.items, drawn.pilot]))
    rows = [
        packer.row(place, seen.kept, items[:-1], items[-1])
        for place, (seen, items) in enumerate(zip(views, encoded, strict=True))
    ]
    batch = packer.pack(rows)
    critic = Critic(model)
    with torch.no_grad():
        states = features(
            model.model.vision_tower,
            torch.from_numpy(np.concatenate([seen.pixels for seen in views])),
        )
        tokens = critic.image_tokens(states.view(len(views), 2, *states.shape[1:]))
        final, _ = critic(
            batch.ids,
            batch.positions,
            batch.image_rows,
            batch.image_places,
            tokens,
            batch.layout,
        )
        packed = critic.logits(final.flatten(0, 1)[batch.target_places])
    model.set_attn_implementation("sdpa")
    done = 0
    for row, seen, size in zip(rows, views, SIZES, strict=True):
        for item, _, _ in packer._fill_lanes(row):
            single = one_at_a_time(model, packer, item, seen, size)
            torch.testing.assert_close(packed[done : done + len(single)], single, atol=2e-4, rtol=0)
            done += len(single)
    assert done == len(packed) > 100
