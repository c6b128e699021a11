"""The command: `python -m examples.ppo [--seed N] [--control] [--quick]`."""

import argparse
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the server runs on the same cores

import torch

from adjudge_reranker import RewardClient

from .digits import load_digits, load_labelled
from .judging import critic_judge
from .records import Run, Settings
from .report import save
from .serving import critic_at
from .training import train

QUICK = {"num_steps": 3, "num_images": 8, "num_answers": 4, "imitation_steps": 20}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.ppo", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=Settings().num_steps)
    parser.add_argument("--control", action="store_true", help="hand the rewards out shuffled")
    parser.add_argument("--quick", action="store_true", help="see whether it runs; learns nothing")
    parser.add_argument("--server", help="address of a running server; default: start one")
    parser.add_argument("--data", type=Path, default=Path("build/digits"), help="of the pictures")
    parser.add_argument("--out", type=Path, default=Path("build/ppo"), help="of figures and plot")
    options = parser.parse_args(arguments)
    settings = Settings(
        seed=options.seed,
        shuffled=options.control,
        **QUICK if options.quick else {"num_steps": options.steps},
    )
    training, held_out = (load_labelled(),) * 2 if options.quick else load_digits(options.data)
    with critic_at(options.server) as address, RewardClient(address) as client:
        run = train(settings, training, held_out, critic_judge(client))
    print(f"{run.seconds:.0f} s; wrote {save(run, options.out)} and the plot beside it")
    return 0 if _is_finite(run) else 1


def _is_finite(run: Run) -> bool:
    return len(run.steps) > 0 and all(
        math.isfinite(number) for step in run.figures()["steps"] for number in step.values()
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    sys.exit(main())
