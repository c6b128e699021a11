"""One picture of an evaluation: two reliability diagrams and the position bias."""

from pathlib import Path

from adjudge_reranker.evaluation.extras import extra_for
from adjudge_reranker.evaluation.metrics.calibration import Calibration
from adjudge_reranker.evaluation.metrics.resampling import Floats
from adjudge_reranker.evaluation.report import Report

with extra_for("drawing a plot"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

_MAX_AREA = 150.0
"""Points squared, of the marker of the fullest bin."""


def draw(path: Path, report: Report, position_bias: Floats) -> None:
    """Writes a PNG file. Panels of what was not measured say so.

    `position_bias` has shape (n,), in nats. Raises OSError if the file cannot be written.
    """
    figure = Figure(figsize=(12.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no display
    preference, reward, bias = figure.subplots(1, 3)
    pairs, scores = report.overall.pairs, report.overall.scores
    _reliability(
        preference,
        pairs.preference_calibration if pairs else None,
        scale=1.0,
        said="preference, P(first) + P(tie) / 2",
        label="first preferred (a tie is 1/2)",
    )
    _reliability(
        reward,
        scores.reward_calibration if scores else None,
        scale=100.0,
        said="reward",
        label="labelled score",
    )
    _histogram(bias, position_bias)
    figure.savefig(path, format="png")


def _reliability(
    axes: Axes, calibration: Calibration | None, *, scale: float, said: str, label: str
) -> None:
    axes.set_xlabel(f"mean {said}")
    axes.set_ylabel(f"mean {label}")
    axes.set_xlim(0.0, scale)
    axes.set_ylim(0.0, scale)
    axes.set_aspect("equal")
    axes.plot([0.0, scale], [0.0, scale], color="grey", linestyle=":", linewidth=1.0)
    if calibration is None or calibration.error.value is None:
        _nothing(axes)
        return
    bins = calibration.bins
    fullest = max(one.count for one in bins)
    x, y = [one.mean_said for one in bins], [one.mean_label for one in bins]
    axes.plot(x, y, color="tab:blue", linewidth=1.0)
    axes.scatter(
        x, y, [_MAX_AREA * one.count / fullest for one in bins], color="tab:blue", clip_on=False
    )
    error = calibration.error
    axes.set_title(f"calibration error {error.value:.3g}, n = {error.n}")


def _histogram(axes: Axes, position_bias: Floats) -> None:
    axes.set_xlabel("position bias, nats; positive favours the first")
    axes.set_ylabel("pairs")
    if position_bias.size == 0:
        _nothing(axes)
        return
    low, high = float(position_bias.min()), float(position_bias.max())
    # Some width always: a critic's bias may be the same to the last digits for every pair.
    pad = max(0.05 * (high - low), 0.05)
    num_bins = min(30, max(5, position_bias.size // 5))
    axes.hist(position_bias, bins=num_bins, range=(low - pad, high + pad), color="tab:blue")
    axes.axvline(0.0, color="grey", linestyle=":", linewidth=1.0)
    axes.set_title(f"mean {position_bias.mean():+.3g}, n = {position_bias.size}")


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
