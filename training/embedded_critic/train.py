"""Trains the embedded critic from nothing: `python -m embedded_critic.train --out DIR`.

Stages, each kept in DIR and skipped when it is there already: the tower as a classifier, the pool
of picture features, the tokenizer, the language model. A killed run goes on from its last
checkpoint. What the server loads is in DIR/checkpoint.
"""

import argparse
import hashlib
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from embedded_critic.digits import load_digits
from embedded_critic.language import train_language
from embedded_critic.parallel import free_port, join
from embedded_critic.pool import draw_pool
from embedded_critic.settings import Settings
from embedded_critic.shapes import load_shapes
from embedded_critic.tasks import corpus
from embedded_critic.tokenizer import save_tokenizer, train_tokenizer
from embedded_critic.tower import save_tower, train_tower

SOURCES = Path(__file__).parent


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
    settings = replace(settings, port=settings.port or free_port())
    settings.out.mkdir(parents=True, exist_ok=True)
    _check_stages(settings)
    spawn(_work, args=(settings,), nprocs=settings.processes)  # type: ignore[no-untyped-call]


def _check_stages(settings: Settings) -> None:
    """Stages kept in a folder belong to one set of settings and one set of sources."""
    sources = hashlib.sha256()
    for file in sorted(SOURCES.rglob("*")):
        if file.suffix in (".py", ".json"):
            sources.update(file.read_bytes())
    told = {k: v for k, v in asdict(settings).items() if k not in ("out", "port")}
    made_by = {**told, "sources": sources.hexdigest()}
    path = settings.out / "made_by.json"
    if not path.exists():
        path.write_text(json.dumps(made_by, indent=2) + "\n")
    elif json.loads(path.read_text()) != made_by:
        raise SystemExit(f"{settings.out} was made with other settings or sources: {path}")


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
    pool = draw_pool(training, shapes, rank, settings)
    if rank == 0 and not (out / "tokenizer.json").exists():
        texts = corpus(20000, np.random.default_rng([settings.seed, 2]), shapes.truths)
        save_tokenizer(train_tokenizer(texts), out)
    dist.barrier()
    train_language(pool, rank, settings, log)


if __name__ == "__main__":
    main()
