"""Figures of runs as JSON, and as a plot."""

import json
from pathlib import Path
from typing import Any

from .records import Run

MEASURES = {
    "reward": "reward, 0 to 100",
    "accuracy": "true accuracy of the answers",
    "kl": "KL from the reference, nats an answer",
    "length": "tokens an answer",
}


def save(run: Run, folder: Path) -> Path:
    """Adds the run to the others in `folder`, in place of an earlier one of its name, and draws
    them all. Returns the path of the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ppo.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    runs[_name(run)] = _rounded(run.figures())
    text = json.dumps(runs, sort_keys=True, allow_nan=False)
    # A line for each step: small enough to be committed, and to be read.
    text = text.replace('{"accuracy"', '\n{"accuracy"').replace('{"greedy', '\n{"greedy')
    path.write_text(text + "\n", encoding="utf-8")
    plot(runs, folder / "ppo.png")
    return path


def plot(runs: dict[str, Any], path: Path) -> None:
    """Reward, accuracy, KL and length over the steps, all runs in each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex=True)
    for axis, (measure, label) in zip(axes.flat, MEASURES.items(), strict=True):
        for colour, (name, run) in enumerate(sorted(runs.items())):
            style = {"color": f"C{colour}", "linestyle": "--" if "control" in name else "-"}
            steps = [step["step"] for step in run["steps"]]
            axis.plot(steps, [step[measure] for step in run["steps"]], lw=0.8, label=name, **style)
            if measure == "accuracy":
                measured = [(one["step"], one["sampled_accuracy"]) for one in run["measurements"]]
                axis.plot(*zip(*measured, strict=True), "o", ms=4, color=f"C{colour}")
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0][1].plot([], [], "o", ms=4, color="grey", label="on held-out pictures")
    axes[0][1].legend(fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _name(run: Run) -> str:
    return ("control, " if run.settings.shuffled else "") + f"seed {run.settings.seed}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value
