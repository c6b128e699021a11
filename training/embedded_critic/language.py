"""The last stage: the language model learns to judge, in front of the frozen tower."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from embedded_critic.alignment import align_embeddings, fit_projector
from embedded_critic.model import Critic, build_model, save_checkpoint
from embedded_critic.muon import Muon
from embedded_critic.packing import Batch, Packer
from embedded_critic.parallel import average_gradients
from embedded_critic.phrases import WORDS
from embedded_critic.pool import Pool
from embedded_critic.settings import Settings
from embedded_critic.tasks import Phase, draw_exercise, phase_at
from embedded_critic.tokenizer import Encoder, save_tokenizer
from embedded_critic.tower import load_tower

WORTH_WEIGHT = 0.5
NUM_DIGITS = len(WORDS)


def train_language(pool: Pool, rank: int, settings: Settings, log: Callable[[str], None]) -> None:
    """Goes on from `train.pt` if that is there; writes `checkpoint` now and then, on rank 0."""
    out = settings.out
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    critic = _fresh_critic(pool, Encoder(tokenizer), settings, log)
    parameters = [p for p in critic.parameters() if p.requires_grad]
    for parameter in parameters:  # all processes start from rank 0's numbers
        dist.broadcast(parameter.data, 0)
    run = _Run(critic, _optimizers(critic, settings))
    if (out / "train.pt").exists():
        run.load(out / "train.pt")
        log(f"resuming at step {run.step}")
    packer = Packer(Encoder(tokenizer), settings.lanes, settings.lane)
    tally, began, first = _Tally(), time.monotonic(), run.step
    while run.step < settings.steps:
        phase, rate = _schedule(run.step, settings)
        # Seeded by the step, so that resuming is exact.
        rng = np.random.default_rng([settings.seed, rank, 4, run.step])
        chosen = rng.integers(0, len(pool.truths), settings.rows)
        batch = _draw_batch(pool, chosen, packer, phase, rng)
        image = torch.from_numpy(pool.features[chosen].astype(np.float32))
        of_shapes = torch.from_numpy(pool.what[chosen] >= NUM_DIGITS)
        run.learn(_loss(critic, batch, image, of_shapes, tally), parameters, rate)
        if run.step % 20 == 0:
            pace = (time.monotonic() - began) / (run.step - first)
            log(f"step {run.step}/{settings.steps} {tally.flush()} {pace:.3f} s/step")
        if rank == 0 and (run.step % settings.save_every == 0 or run.step == settings.steps):
            run.save(out / "train.pt")
            save_checkpoint(critic, out / "checkpoint")
            save_tokenizer(tokenizer, out / "checkpoint")


def _fresh_critic(
    pool: Pool, encoder: Encoder, settings: Settings, log: Callable[[str], None]
) -> Critic:
    """The trained tower, words and projector aligned, everything else random."""
    torch.manual_seed(settings.seed)
    critic = Critic(build_model(encoder.image, encoder.im_end))
    inner = critic.llava.model
    tower, _ = load_tower(settings.out / "tower.pt")
    inner.vision_tower.load_state_dict(tower.state_dict())
    inner.vision_tower.requires_grad_(False)
    directions = align_embeddings(inner.language_model.embed_tokens, encoder)
    nn.init.normal_(inner.image_newline, 0, 0.04)
    if not (settings.out / "train.pt").exists():
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
    return critic


class _Run:
    """What changes from step to step."""

    def __init__(self, critic: Critic, optimizers: list[torch.optim.Optimizer]) -> None:
        self._critic = critic
        self._optimizers = optimizers
        self.step = 0

    def learn(self, loss: torch.Tensor, parameters: list[nn.Parameter], rate: float) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.step += 1

    def save(self, path: Path) -> None:
        state = {
            "critic": self._critic.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self.step,
        }
        unfinished = path.with_suffix(".tmp")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self._critic.load_state_dict(state["critic"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]


def _optimizers(critic: Critic, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the language model's layers, AdamW for everything else."""
    layers = [p for p in critic.llava.model.language_model.layers.parameters() if p.ndim == 2]
    ours = {id(p) for p in layers}
    others = [p for p in critic.parameters() if p.requires_grad and id(p) not in ours]
    adam = torch.optim.AdamW(
        [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.peak_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    return [Muon(layers, lr=settings.peak_rate, weight_decay=0.05), adam]


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
    pool: Pool,
    chosen: NDArray[np.int64],
    packer: Packer,
    phase: Phase,
    rng: np.random.Generator,
) -> Batch:
    rows = []
    for place, index in enumerate(chosen):
        exercise = draw_exercise(pool.truths[index], phase, rng)
        encoded = packer.encode([*exercise.items, exercise.pilot])
        rows.append(packer.row(place, tuple(pool.kept[index]), encoded[:-1], encoded[-1]))
    return packer.pack(rows)


def _loss(
    critic: Critic, batch: Batch, image: torch.Tensor, of_shapes: torch.Tensor, tally: _Tally
) -> torch.Tensor:
    """`of_shapes` (rows,) says which rows' hits are also counted as those of shapes."""
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
    shapes = verdicts & of_shapes[batch.target_places // batch.ids.shape[1]]
    tally.add("shapes", hits[shapes].sum().item(), int(shapes.sum()))
    tally.add("items", batch.num_items, 1)
    if len(batch.worths):
        guesses = critic.worth(middle.flatten(0, 1)[batch.worth_places]).squeeze(-1)
        worth = F.binary_cross_entropy_with_logits(guesses, batch.worths)
        error = (guesses.detach().sigmoid() - batch.worths).abs()
        tally.add("worth", error.sum().item(), len(batch.worths))
        loss = loss + WORTH_WEIGHT * worth
    return loss
