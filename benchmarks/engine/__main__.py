"""Measures everything, or what is named, and writes the report.

python -m benchmarks.engine [--quick] [--only engine,grpc,...] [--write-readme]
"""

import argparse
import logging
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads would spin on busy cores

import torch
from benchmarks.engine import openrlhf, peers, report, vllm
from benchmarks.engine.results import Results, environment
from benchmarks.engine.sections import SECTIONS
from benchmarks.engine.settings import FULL, QUICK, SMALLEST

from adjudge_server import host_memory

FOLDER = Path(__file__).parent.parent
THREADS = 1
SETTINGS = {"full": FULL, "quick": QUICK, "smallest": SMALLEST}


def main() -> None:
    options = _options()
    torch.set_num_threads(THREADS)
    host_memory.keep()  # as the server does; for the floor and the baselines too
    grid = "smallest" if options.smallest else "quick" if options.quick else "full"
    settings = SETTINGS[grid]
    if options.rounds is not None:
        settings = replace(settings, rounds=options.rounds, served_rounds=options.rounds)
    sections = SECTIONS | peers.sections(options.vllm, options.openrlhf)
    if unknown := set(options.only) - set(sections):
        raise SystemExit(f"--only {','.join(sorted(unknown))}: choose from {','.join(sections)}")
    results = Results(environment(THREADS, grid))
    for name in options.only or sections:
        began = time.perf_counter()
        print(f"{name} …", flush=True)
        sections[name](settings, results)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        # After each, so that a run that is interrupted leaves what it has.
        report.write_json(results, options.out / "latest.json")
    report.write_plot(results, options.out / "latest.png")
    print("", report.text(results), sep="\n")
    if options.write_readme:
        report.write_readme(results, FOLDER / "README.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="what the bars need; minutes")
    parser.add_argument("--smallest", action="store_true", help="a toy, to see that it runs")
    parser.add_argument("--rounds", type=int, help="of each measurement that is repeated")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[])
    parser.add_argument("--write-readme", action="store_true", help="figures into README.md")
    parser.add_argument("--out", type=Path, default=FOLDER / "results")
    parser.add_argument("--vllm", type=Path, default=vllm.PYTHON, help="python with vLLM")
    parser.add_argument("--openrlhf", type=Path, default=openrlhf.PYTHON, help="with OpenRLHF")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
