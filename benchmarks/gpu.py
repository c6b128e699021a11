"""The engine on a GPU: LLaVA-Critic's 7B shape, bf16, random weights made on the device.

    python -m benchmarks.gpu [--shape small] [--device cuda:0] [--rounds 5] [--out FILE]

Two copies of the model, 16 GB each: one in the engine, one as transformers runs it, for the floor
and the slow ways. `--shape small --device cpu` shows on any machine that it runs. Seconds are wall
time on a GPU, with the device waited for.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from benchmarks.engine import floor, in_process, report
from benchmarks.engine.baselines import shortened
from benchmarks.engine.in_process import Subject
from benchmarks.engine.results import Results, environment
from benchmarks.engine.sections import add_floor_bars, add_timings
from benchmarks.engine.settings import FULL, SMALLEST, Settings
from benchmarks.engine.shapes import LLAVA_CRITIC_7B

SHAPES: dict[str, Settings] = {
    "7b": replace(FULL, shape=LLAVA_CRITIC_7B),
    "small": SMALLEST,
}


def measure(settings: Settings, device: str, dtype: torch.dtype) -> Results:
    """The grid in process, and the slow ways once."""
    results = Results(environment(torch.get_num_threads(), "full"))
    subject = Subject.build(settings.shape, device, dtype)
    peak = floor.matrix_product_peak(device, dtype)
    results.add("machine", "matrix product", None, 0, [peak / 1e9], "GFLOP/s")
    timings = in_process.measure(subject, settings.cases, settings.rounds)
    add_timings(subject, timings, results, peak)
    add_floor_bars(subject, timings, settings, results)
    ways = shortened(settings.generated_tokens)
    for case in settings.baselines:
        for name, way in ways.items():
            try:
                found = in_process.slow_baselines(subject, case, {name: way})
            except torch.OutOfMemoryError:
                results.notes.append(f"{name}, {case.size}, N = {case.count}: out of memory")
                continue
            results.add("slow ways", name, case.size, case.count, [found[name]])
    return results


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path, help="a file for the same as JSON")
    options = parser.parse_args()
    settings = SHAPES[options.shape]
    if options.rounds:
        settings = replace(settings, rounds=options.rounds)
    results = measure(settings, options.device, getattr(torch, options.dtype))
    print(report.text(results))
    if options.out:
        options.out.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
