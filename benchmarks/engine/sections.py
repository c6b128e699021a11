"""The measurements one after the other, each into the same results."""

import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from benchmarks.engine import baselines, floor, in_process, invariance, memory, served
from benchmarks.engine.checkpoint import build, critic_of, write
from benchmarks.engine.in_process import POINTWISE, ROUND_ROBIN, Case, Subject, Timings
from benchmarks.engine.invariance import Changes
from benchmarks.engine.questions import Size, picture, pointwise, responses
from benchmarks.engine.results import Results
from benchmarks.engine.settings import Settings
from benchmarks.engine.shapes import EMBEDDED, TINY
from benchmarks.engine.timing import timed

from adjudge_reranker import RewardClient
from adjudge_server.caches import CacheBytes
from adjudge_server.config import Config
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.loading import load_critic

EVICTING = CacheBytes(3 << 20, 1 << 20)
"""Less than the prompts of one batch need."""
FORGETTING = CacheBytes(0, 0)
BF16_SHARE = 10
"""Of the batches, one in so many is run in bf16 too."""


def engine(settings: Settings, results: Results) -> None:
    """In process, against the floor and the slow ways."""
    subject = Subject.build(settings.shape)
    peak = floor.matrix_product_peak("cpu", torch.float32)
    results.add("machine", "matrix product", None, 0, [peak / 1e9], "GFLOP/s")
    compared = Case(settings.small, POINTWISE, 2)
    difference = in_process.largest_difference(subject, compared)
    results.notes.append(
        f"logits of the engine differ from one plain forward each by {difference:.2g} at most"
    )
    timings = in_process.measure(subject, settings.cases, settings.rounds)
    add_timings(subject, timings, results, peak)
    add_floor_bars(subject, timings, settings, results)
    ways = baselines.shortened(settings.generated_tokens)
    if settings.one_by_one is not None:
        results.notes.append(
            f"{' and '.join(baselines.ONE_BY_ONE)}: timed with at most {settings.one_by_one}"
            " response(s); the others count as much"
        )
    for case in settings.baselines:
        slow = in_process.slow_baselines(subject, case, ways, settings.one_by_one)
        for name, seconds in slow.items():
            results.add("slow ways", name, case.size, case.count, [seconds])
        if (case.size, case.count) == (settings.large, settings.few):
            cold = statistics.median(map(subject.seconds, timings[case].cold))
            for name, seconds in slow.items():
                results.bars[f"{name.replace(' ', '_')}_over_cold_8"] = seconds / cold


def add_timings(
    subject: Subject, timings: dict[Case, Timings], results: Results, peak: float
) -> None:
    for case, found in timings.items():
        add = partial(results.add, f"Adjudge, {case.kind}", size=case.size, count=_asked(case))
        add(what="cold", values=list(map(subject.seconds, found.cold)))
        add(what="cold floor", values=found.cold_floor)
        add(what="warm", values=list(map(subject.seconds, found.warm)))
        add(what="warm floor", values=found.warm_floor)
        add(what="warm floor, two rates", values=found.warm_floor_by_kind)
        add(what="decoding, tiling, tokenising", values=list(map(subject.seconds, found.prepared)))
    for case, found in {case.size: (case, found) for case, found in timings.items()}.values():
        add = partial(results.add, "parts of the floor", size=case.size, count=0)
        add(what="vision tower", values=found.vision)
        add(what=f"plain pass over {found.prefix_tokens} tokens", values=found.prefix)
        flops = floor.prefix_work(found.prefix_tokens).flops(subject.shape)
        rates = [flops / seconds / peak for seconds in found.prefix]
        add(what="its rate", values=rates, unit="of the matrix product's")


def _asked(case: Case) -> int:
    return case.count * (case.count - 1) if case.kind == ROUND_ROBIN else case.count


def add_floor_bars(
    subject: Subject, timings: dict[Case, Timings], settings: Settings, results: Results
) -> None:
    few = timings.get(Case(settings.large, POINTWISE, settings.few))
    many = timings.get(Case(settings.large, POINTWISE, settings.many))
    rounds = [t for case, t in timings.items() if case.kind == ROUND_ROBIN]
    cold = partial(_over, subject, which="cold")
    warm = partial(_over, subject, which="warm")
    if few:
        results.bars["cold_8_over_floor"] = cold(few)
        results.bars["warm_8_over_suffix_floor"] = warm(few)
    if many:
        results.bars["warm_64_over_suffix_floor"] = warm(many)
    if rounds:
        results.bars["round_robin_8_over_floor"] = cold(rounds[0])


def _over(subject: Subject, timings: Timings, which: str) -> float:
    """The median of the rounds' ratios."""
    measured, least = {
        "cold": (timings.cold, timings.cold_floor),
        "warm": (timings.warm, timings.warm_floor),
    }[which]
    return statistics.median(subject.seconds(m) / f for m, f in zip(measured, least, strict=True))


def grpc(settings: Settings, results: Results) -> None:
    """The generated checkpoint, served, against the same critic in this process."""
    critic = critic_of(build(settings.shape), settings.shape)
    in_process_seconds, served_seconds, ratios = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        served.serving_checkpoint(write(Path(folder), settings.shape)) as server,
        RewardClient(server.address) as client,
    ):
        ask = partial(served.scored, server, client, template="bench/pointwise")
        texts = responses(settings.few, seed=0)
        in_process.end_to_end(critic, picture(settings.small, 0), texts)
        ask(image=picture(settings.small, 0), texts=texts)
        for round_ in range(settings.served_rounds):
            image = picture(settings.large, 1 + round_)
            texts = responses(settings.few, 1 + round_)
            critic.forget()
            here = timed(lambda i=image, t=texts: in_process.end_to_end(critic, i, t))
            there = ask(image=image, texts=texts)
            in_process_seconds.append(here.cpu)
            served_seconds.append(there.cpu)
            ratios.append(here.cpu / there.cpu)
    add = partial(results.add, "end to end, cold", size=settings.large, count=settings.few)
    add(what="in process", values=in_process_seconds)
    add(what="gRPC, client and server", values=served_seconds)
    results.bars["grpc_throughput_over_in_process"] = statistics.median(ratios)


def embedded(settings: Settings, results: Results) -> None:
    add = partial(results.add, "embedded critic, gRPC", size=None, count=served.RESPONSES)
    add(what="one core, floor", values=[_embedded_floor()], unit="rewards/s")
    with served.serving() as server:
        for is_warm, what in ((True, "warm"), (False, "cold")):
            found = served.embedded_throughput(server, settings.embedded_requests, is_warm=is_warm)
            add(what=what, values=[found.rewards_per_second], unit="rewards/s")
            add(what=what, values=[found.rewards_per_cpu_second], unit="rewards/CPU s")
            if is_warm:
                results.bars["embedded_warm_rewards_per_second"] = found.rewards_per_second


def _embedded_floor() -> float:
    """Rewards a second, about a known picture, of a core that multiplies matrices at its peak and
    does nothing else."""
    critic = _embedded(CacheBytes(), "float32")
    items = pointwise(critic, picture(served.DIGIT, 0), served.digits(0))
    work = floor.work_after(items, items[0].shared_tokens)
    peak = floor.matrix_product_peak("cpu", torch.float32)
    return len(items) * peak / work.flops(EMBEDDED)


def peak_memory(settings: Settings, results: Results) -> None:
    is_tiny = settings.shape is TINY
    extra: dict[str, list[int]] = {"cold": [], "warm": []}
    sizes = (settings.small, settings.large)
    wanted = [(size, count) for size in sizes for count in (1, settings.many)]
    with ThreadPoolExecutor(2) as pool:  # bytes are counted, not seconds
        peaks = dict(zip(wanted, pool.map(partial(_extra, is_tiny), wanted), strict=True))
    for size in sizes:
        one, many = peaks[size, 1], peaks[size, settings.many]
        for state in extra:
            difference = getattr(many, state) - getattr(one, state)
            extra[state].append(difference)
            mib = [difference / 2**20]
            results.add("peak memory over one response", state, size, settings.many, mib, "MiB")
    smaller, larger = sorted(extra["cold"])
    if smaller > 0:
        results.bars["extra_memory_between_prefix_lengths"] = larger / smaller


def _extra(is_tiny: bool, wanted: tuple[Size, int]) -> memory.Peaks:
    return memory.extra(*wanted, is_tiny=is_tiny)


def batch_invariance(settings: Settings, results: Results) -> None:
    """The embedded critic, whose weights are trained, and the generated one, whose prompts are
    long."""
    for name, batches, size, fresh in (
        ("embedded", settings.embedded_batches, served.DIGIT, _embedded),
        ("generated", settings.generated_batches, settings.small, partial(_generated, settings)),
    ):
        if not batches:
            continue
        known = invariance.pool(fresh(FORGETTING, "float32"), size)
        found = [
            invariance.changes(known, fresh(caches, "float32"), batches)
            for caches in (CacheBytes(), FORGETTING, EVICTING)
        ]
        worst = invariance.largest(found)
        _add_changes(results, f"{name}, fp32", worst)
        for bar, value in (
            ("invariance_reward_points", worst.reward),
            ("invariance_margin_nats", worst.margin),
        ):
            results.bars[bar] = max(value, results.bars.get(bar, 0.0))
        known = invariance.pool(fresh(FORGETTING, "bfloat16"), size)
        halves = fresh(CacheBytes(), "bfloat16")
        _add_changes(
            results,
            f"{name}, bf16",
            invariance.changes(known, halves, max(1, batches // BF16_SHARE)),
        )


def _add_changes(results: Results, what: str, found: Changes) -> None:
    section = "changes by batch"
    results.add(section, what, None, found.batches, [found.reward], "points")
    results.add(section, what, None, found.batches, [found.margin], "nats")


def _embedded(caches: CacheBytes, dtype: str) -> LlavaOnevisionCritic:
    config = Config(
        dtype=dtype, max_prefix_bytes=caches.prefixes, max_feature_bytes=caches.features
    )
    critic = load_critic(config)
    assert isinstance(critic, LlavaOnevisionCritic)
    return critic


def _generated(settings: Settings, caches: CacheBytes, dtype: str) -> LlavaOnevisionCritic:
    model = build(settings.shape, dtype=getattr(torch, dtype))
    return critic_of(model, settings.shape, caches)


Section = Callable[[Settings, Results], None]
SECTIONS: dict[str, Section] = {
    "engine": engine,
    "grpc": grpc,
    "embedded": embedded,
    "memory": peak_memory,
    "invariance": batch_invariance,
}
