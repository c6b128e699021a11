"""Trains the embedded critic from nothing: `python -m embedded_critic.train --out DIR`.

Stages, each kept in DIR and skipped when it is there already: the tower as a classifier, the pool
of picture features, the tokenizer, the language model. A killed run goes on from its last
checkpoint. What the server loads is in DIR/checkpoint.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from embedded_critic.alignment import align_embeddings, fit_projector
from embedded_critic.digits import Digits, load_digits
from embedded_critic.model import Critic, build_model, save_checkpoint
from embedded_critic.packing import Batch, Packer
from embedded_critic.parallel import average_gradients, join
from embedded_critic.rubric import Truth
from embedded_critic.shapes import ShapePictures, ShapeTruth, load_shapes
from embedded_critic.tasks import Phase, corpus, draw_exercise, phase_at
from embedded_critic.tokenizer import Encoder, save_tokenizer, train_tokenizer
from embedded_critic.tower import (
    features,
    load_tower,
    save_tower,
    train_tower,
)
from embedded_critic.views import View, random_views

WORTH_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what comes out, but for the machine's rounding."""

    out: Path
    seed: int = 1
    processes: int = 2
    port: int = 29512
    tower_steps: int = 2800
    pool_views: int = 36000
    steps: int = 5000
    rows: int = 3  # per process and step
    lanes: int = 6
    lane: int = 112
    peak_rate: float = 1.5e-3
    save_every: int = 100


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures as the frozen tower sees them."""

    features: NDArray[np.float16]
    """(n, 2, 16, hidden)"""
    kept: NDArray[np.int64]
    """(n, 2)"""
    what: NDArray[np.int64]
    how: NDArray[np.int64]
    truths: list[Truth | ShapeTruth]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name in (
        "seed",
        "processes",
        "port",
        "tower_steps",
        "pool_views",
        "steps",
        "rows",
    ):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=Settings.__dataclass_fields__[name].default)
    settings = Settings(**vars(parser.parse_args()))
    settings.out.mkdir(parents=True, exist_ok=True)
    spawn(_work, args=(settings,), nprocs=settings.processes)  # type: ignore[no-untyped-call]


def _work(rank: int, settings: Settings) -> None:
    join(rank, settings.processes, settings.port)
    _train(rank, settings)
    dist.destroy_process_group()


def _train(rank: int, settings: Settings) -> None:
    out = settings.out

    def log(line: str) -> None:
        if rank == 0:
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    if rank == 0:
        load_digits(out / "data")  # downloads
        load_shapes(out / "data")
    dist.barrier()
    training, held_out = load_digits(out / "data")
    shapes, _ = load_shapes(out / "data")
    if not (out / "tower.done").exists():
        train_tower(
            training,
            held_out,
            shapes,
            steps=settings.tower_steps,
            seed=settings.seed,
            rank=rank,
            save=lambda tower, head: save_tower(out / "tower.pt", tower, head),
            log=log,
        )
        dist.barrier()
        (out / "tower.done").touch()
    pool = _pool(training, shapes, rank, settings)
    if rank == 0 and not (out / "tokenizer.json").exists():
        texts = corpus(20000, np.random.default_rng([settings.seed, 2]), shapes.truths)
        save_tokenizer(train_tokenizer(texts), out)
    dist.barrier()
    _train_language(pool, rank, settings, log)


def _pool(training: Digits, shapes: ShapePictures, rank: int, settings: Settings) -> Pool:
    """Each process draws its own; what was drawn is kept, for a run that goes on."""
    share = settings.pool_views // settings.processes
    path = settings.out / f"pool-{rank}.npy"
    rng = np.random.default_rng([settings.seed, rank, 3])
    tower, _ = load_tower(settings.out / "tower.pt")
    views: list[View] = []
    parts: list[NDArray[np.float16]] = []
    kept = path.exists()
    while len(views) < share:
        drawn = random_views(training, shapes, min(200, share - len(views)), rng)
        if not kept:
            pixels = np.concatenate([view.pixels for view in drawn])
            with torch.no_grad():
                states = features(tower, torch.from_numpy(pixels))
            parts.append(states.view(len(drawn), 2, *states.shape[1:]).half().numpy())
        views += [replace(view, pixels=_NO_PIXELS) for view in drawn]
    if not kept:
        np.save(path, np.concatenate(parts))
    return Pool(
        np.load(path, mmap_mode="r"),
        np.array([view.kept for view in views]),
        np.array([view.what for view in views]),
        np.array([view.how for view in views]),
        [view.truth for view in views],
    )


_NO_PIXELS = np.zeros((0, 3, 0, 0), np.float32)


def _train_language(pool: Pool, rank: int, settings: Settings, log: Callable[[str], None]) -> None:
    out = settings.out
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    encoder = Encoder(tokenizer)
    torch.manual_seed(settings.seed)
    critic = Critic(build_model(encoder.image, encoder.im_end))
    inner = critic.llava.model
    tower, _ = load_tower(out / "tower.pt")
    inner.vision_tower.load_state_dict(tower.state_dict())
    inner.vision_tower.requires_grad_(False)
    directions = align_embeddings(inner.language_model.embed_tokens, encoder)
    nn.init.normal_(inner.image_newline, 0, 0.04)
    if not (out / "train.pt").exists():
        n = min(6000, len(pool.truths))
        fit_projector(
            inner.multi_modal_projector,
            torch.from_numpy(pool.features[:n].reshape(n, 32, -1).astype(np.float32)),
            torch.from_numpy(pool.what[:n]),
            torch.from_numpy(pool.how[:n]),
            directions,
            steps=400,
            log=log,
        )
    parameters = [p for p in critic.parameters() if p.requires_grad]
    for parameter in parameters:  # both processes start from rank 0's numbers
        dist.broadcast(parameter.data, 0)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.peak_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    first = 0
    if (out / "train.pt").exists():
        state = torch.load(out / "train.pt", weights_only=True)
        critic.load_state_dict(state["critic"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        log(f"resuming at step {first}")
    packer = Packer(encoder, settings.lanes, settings.lane)
    began = time.monotonic()
    tally = _Tally()
    total = settings.steps
    for step in range(first, total):
        phase, rate = _schedule(step, settings)
        rng = np.random.default_rng([settings.seed, rank, 4, step])  # so that resuming is exact
        batch, image = _draw_batch(pool, packer, phase, rng, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _loss(critic, batch, image, tally)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 20 == 19:
            pace = (time.monotonic() - began) / (step + 1 - first)
            log(f"step {step + 1}/{total} {tally.flush()} {pace:.3f} s/step")
        if rank == 0 and ((step + 1) % settings.save_every == 0 or step + 1 == total):
            state = {
                "critic": critic.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            torch.save(state, out / "train.tmp")
            (out / "train.tmp").replace(out / "train.pt")
            save_checkpoint(critic, out / "checkpoint")
            save_tokenizer(tokenizer, out / "checkpoint")


def _schedule(step: int, settings: Settings) -> tuple[Phase, float]:
    """What is practised at a step, and the learning rate: a cosine after a short rise."""
    share = step / settings.steps
    rate = settings.peak_rate * min(1.0, (step + 1) / 100)
    return phase_at(share), rate * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * share)))


class _Tally:
    """Running means for the log."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, name: str, total: float, count: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._counts[name] = self._counts.get(name, 0.0) + count

    def flush(self) -> str:
        parts = [f"{k} {self._sums[k] / max(self._counts[k], 1e-9):.3f}" for k in self._sums]
        self.__init__()  # type: ignore[misc]
        return " ".join(parts)


def _draw_batch(
    pool: Pool, packer: Packer, phase: Phase, rng: np.random.Generator, settings: Settings
) -> tuple[Batch, torch.Tensor]:
    chosen = rng.integers(0, len(pool.truths), settings.rows)
    rows = []
    for place, index in enumerate(chosen):
        exercise = draw_exercise(pool.truths[index], phase, rng)
        encoded = packer.encode([*exercise.items, exercise.pilot])
        rows.append(packer.row(place, tuple(pool.kept[index]), encoded[:-1], encoded[-1]))
    return packer.pack(rows), torch.from_numpy(pool.features[chosen].astype(np.float32))


def _loss(critic: Critic, batch: Batch, image: torch.Tensor, tally: _Tally) -> torch.Tensor:
    final, middle = critic(
        batch.ids,
        batch.positions,
        batch.image_rows,
        batch.image_places,
        critic.image_tokens(image),
        batch.layout,
    )
    logits = critic.logits(final.flatten(0, 1)[batch.target_places])
    each = F.cross_entropy(logits, batch.targets, reduction="none")
    weights = batch.target_weights
    loss = (each * weights).sum() / weights.sum()
    verdicts = weights >= 1
    tally.add("loss", loss.item(), 1)
    tally.add("verdict", each[verdicts].sum().item(), int(verdicts.sum()))
    hits = logits.argmax(-1) == batch.targets
    tally.add("hit", hits[verdicts].sum().item(), int(verdicts.sum()))
    tally.add("items", batch.num_items, 1)
    if len(batch.worths):
        guesses = critic.worth(middle.flatten(0, 1)[batch.worth_places]).squeeze(-1)
        worth = F.binary_cross_entropy_with_logits(guesses, batch.worths)
        error = (guesses.detach().sigmoid() - batch.worths).abs()
        tally.add("worth", error.sum().item(), len(batch.worths))
        loss = loss + WORTH_WEIGHT * worth
    return loss


if __name__ == "__main__":
    main()
