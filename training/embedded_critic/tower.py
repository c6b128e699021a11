"""Stage one: the vision tower learns to read digits and shapes, alone.

Trained jointly from nothing, the language model spends its whole budget learning to ignore an image
that means nothing yet. So the tower first becomes a classifier and is then frozen.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from embedded_critic.digits import Digits
from embedded_critic.parallel import average_gradients
from embedded_critic.pictures import plain_picture
from embedded_critic.rubric import Truth
from embedded_critic.shapes import ShapePictures
from embedded_critic.views import HOW, PATCH, TILE, WHAT, random_views, view_of

BATCH = 64  # per process
PEAK_RATE = 1.5e-3
NUM_CLASSES = len(WHAT) + len(HOW)


def tower_config() -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=TILE,
        patch_size=PATCH,
        vision_use_head=False,
    )


def features(tower: SiglipVisionModel, pixel_values: Tensor) -> Tensor:
    """(n, 16, hidden): the last layer's output before the final norm, as LLaVA-OneVision has it."""
    outputs = tower(pixel_values=pixel_values, output_hidden_states=True)
    states: Tensor = outputs.hidden_states[-1]
    return states


def class_loss(head: nn.Linear, states: Tensor, what: Tensor, how: Tensor) -> Tensor:
    """Cross-entropy of the pooled guess and of every patch's own guess.

    Every patch must know what is shown, because every patch becomes a token of the language model.
    """
    logits = head(states)  # (n, 16, classes)
    total = torch.zeros(())
    for guess, weight in ((logits.mean(1, keepdim=True), 1.0), (logits, 0.5)):
        n = guess.shape[1]
        total = total + weight * F.cross_entropy(
            guess[..., : len(WHAT)].flatten(0, 1), what.repeat_interleave(n), label_smoothing=0.05
        )
        total = total + 0.3 * weight * F.cross_entropy(
            guess[..., len(WHAT) :].flatten(0, 1), how.repeat_interleave(n)
        )
    return total


def accuracy(tower: SiglipVisionModel, head: nn.Linear, held_out: Digits) -> float:
    """Share of the held-out digits, as the data set has them, that the classifier reads."""
    plain = [plain_picture(pixels, 0).image for pixels in held_out.pixels]
    pixels = np.stack([view_of(image, Truth(0, False)).pixels[0] for image in plain])
    with torch.no_grad():
        logits = head(features(tower, torch.from_numpy(pixels))).mean(1)[:, : len(WHAT)]
    return float((logits.argmax(1).numpy() == held_out.labels).mean())


def train_tower(
    training: Digits,
    held_out: Digits,
    shapes: ShapePictures,
    *,
    steps: int,
    seed: int,
    rank: int,
    save: Callable[[SiglipVisionModel, nn.Linear], None],
    log: Callable[[str], None],
) -> tuple[SiglipVisionModel, nn.Linear]:
    """Trains tower and classifier head; `save` is called now and then, on rank 0."""
    torch.manual_seed(seed)
    tower = SiglipVisionModel(tower_config())
    head = nn.Linear(128, NUM_CLASSES)
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=PEAK_RATE, weight_decay=0.05, betas=(0.9, 0.98), fused=True
    )
    rng = np.random.default_rng([seed, rank, 1])
    began = time.monotonic()
    for step in range(steps):
        warm = min(1.0, (step + 1) / 100)
        rate = PEAK_RATE * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        views = random_views(training, shapes, BATCH, rng)
        # One tile of each view: the other is nearly the same picture.
        pixels = np.stack([view.pixels[rng.integers(0, 2)] for view in views])
        states = features(tower, torch.from_numpy(pixels))
        what, how = (torch.tensor([getattr(v, name) for v in views]) for name in ("what", "how"))
        loss = class_loss(head, states, what, how)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if rank == 0 and (step % 200 == 0 or step == steps - 1):
            right = accuracy(tower, head, held_out)
            seconds = time.monotonic() - began
            log(f"tower step {step} loss {loss.item():.3f} held-out {right:.4f} {seconds:.0f} s")
            save(tower, head)
    return tower, head


def load_tower(path: Path) -> tuple[SiglipVisionModel, nn.Linear]:
    """What `save_tower` wrote."""
    state = torch.load(path, weights_only=True)
    tower = SiglipVisionModel(tower_config())
    tower.load_state_dict(state["tower"])
    head = nn.Linear(128, NUM_CLASSES)
    head.load_state_dict(state["head"])
    return tower, head


def save_tower(path: Path, tower: SiglipVisionModel, head: nn.Linear) -> None:
    torch.save({"tower": tower.state_dict(), "head": head.state_dict()}, path)
