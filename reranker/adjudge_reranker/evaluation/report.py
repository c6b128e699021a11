"""All figures of an evaluation, over everything and for each subset."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adjudge_reranker.evaluation import arrays
from adjudge_reranker.evaluation.importers import Layout
from adjudge_reranker.evaluation.importers.vl_rewardbench import GENERAL, HALLUCINATION, REASONING
from adjudge_reranker.evaluation.judge import Judged, Unanswered
from adjudge_reranker.evaluation.metrics import benchmarks
from adjudge_reranker.evaluation.metrics.benchmarks import Benchmark
from adjudge_reranker.evaluation.metrics.pairs import PairFigures, pair_figures
from adjudge_reranker.evaluation.metrics.scores import (
    GroupFigures,
    ScoreFigures,
    group_figures,
    score_figures,
)
from adjudge_reranker.evaluation.records import Labelled, LabelledGroup, LabelledPair, LabelledScore


@dataclass(frozen=True, slots=True)
class Counts:
    """How many items there are, and what became of them."""

    total: int
    answered: int
    failed: int
    """In no figure. total = answered + failed."""
    reasons: dict[str, int]
    """Failed items by reason; the values add up to `failed`."""


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of some items; those of a kind that is not among them are None."""

    subset: str | None
    """None for all items, or for those of no subset."""
    counts: Counts
    pairs: PairFigures | None
    scores: ScoreFigures | None
    groups: GroupFigures | None


@dataclass(frozen=True, slots=True, order=True)
class CriticIdentity:
    """Whose readings they are. More than one if weights were updated in the middle of it."""

    model: str
    fingerprint: str
    weights_epoch: int
    template: str
    template_hash: str


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found."""

    critics: tuple[CriticIdentity, ...]
    overall: Section
    subsets: tuple[Section, ...]
    """In the order in which they first appear; empty if no item has one."""
    benchmark: Benchmark | None
    """A published benchmark's own figures."""


def build_report(
    judged: Sequence[Judged],
    layout: Layout = Layout.ADJUDGE,
    reward_range: tuple[float, float] | None = (0.0, 100.0),
) -> Report:
    """Puts figures to judged items.

    `reward_range` is the least and the greatest reward of the template that scores were read with;
    None if it is not known.
    """
    subsets = dict.fromkeys(one.item.subset for one in judged)
    sections = (
        _section(subset, [one for one in judged if one.item.subset == subset], reward_range)
        for subset in subsets
    )
    return Report(
        critics=_critics(judged),
        overall=_section(None, judged, reward_range),
        subsets=() if set(subsets) <= {None} else tuple(sections),
        benchmark=_benchmark(judged, layout),
    )


def _section(
    subset: str | None, judged: Sequence[Judged], reward_range: tuple[float, float] | None
) -> Section:
    def has(kind: type[Labelled]) -> bool:
        return any(isinstance(one.item, kind) for one in judged)

    labels, rewards, clusters = arrays.score_arrays(judged)
    scores = has(LabelledScore)
    return Section(
        subset=subset,
        counts=_counts(judged),
        pairs=pair_figures(arrays.pair_arrays(judged)) if has(LabelledPair) else None,
        scores=score_figures(labels, rewards, reward_range, clusters) if scores else None,
        groups=group_figures(*arrays.group_arrays(judged)) if has(LabelledGroup) else None,
    )


def _counts(judged: Sequence[Judged]) -> Counts:
    reasons = Counter(one.reading.reason for one in judged if isinstance(one.reading, Unanswered))
    failed = reasons.total()
    return Counts(len(judged), len(judged) - failed, failed, dict(sorted(reasons.items())))


def _critics(judged: Iterable[Judged]) -> tuple[CriticIdentity, ...]:
    provenances = (one.provenance for one in judged if one.provenance is not None)
    found = {
        CriticIdentity(p.model, p.model_fingerprint, p.weights_epoch, p.template, p.template_hash)
        for p in provenances
    }
    return tuple(sorted(found))


def _benchmark(judged: Sequence[Judged], layout: Layout) -> Benchmark | None:
    match layout:
        case Layout.VL_REWARDBENCH:
            groups = (GENERAL, HALLUCINATION, REASONING)
            return benchmarks.vl_rewardbench(arrays.right_by_subset(judged, groups))
        case Layout.MULTIMODAL_REWARDBENCH:
            categories = sorted({one.item.subset or "" for one in judged})
            return benchmarks.multimodal_rewardbench(arrays.right_by_subset(judged, categories))
        case Layout.REWARDBENCH_2:
            credits, ties = arrays.credits_by_subset(judged), arrays.ties_arrays(judged)
            return benchmarks.rewardbench_2(credits, ties)
        case Layout.ADJUDGE:
            return None
