"""The pictures as the frozen tower sees them, drawn once."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from embedded_critic.digits import Digits
from embedded_critic.rubric import Truth
from embedded_critic.settings import Settings
from embedded_critic.shapes import ShapePictures, ShapeTruth
from embedded_critic.tower import features, load_tower
from embedded_critic.views import View, random_views


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


def draw_pool(training: Digits, shapes: ShapePictures, rank: int, settings: Settings) -> Pool:
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
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, np.concatenate(parts))
        unfinished.replace(path)
    return Pool(
        np.load(path, mmap_mode="r"),
        np.array([view.kept for view in views]),
        np.array([view.what for view in views]),
        np.array([view.how for view in views]),
        [view.truth for view in views],
    )


_NO_PIXELS = np.zeros((0, 3, 0, 0), np.float32)
