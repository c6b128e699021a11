"""The benchmarks run, count what they should, and name every bar. No test looks at a time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.engine import floor, in_process, invariance, memory, report, sections
from benchmarks.engine.bars import BARS
from benchmarks.engine.checkpoint import build, critic_of
from benchmarks.engine.in_process import POINTWISE, ROUND_ROBIN, Case, Subject
from benchmarks.engine.peers import sections as peer_sections
from benchmarks.engine.results import Results
from benchmarks.engine.settings import SMALLEST
from benchmarks.engine.shapes import TINY
from benchmarks.engine.timing import Spread, tree_cpu_seconds
from benchmarks.gpu import SHAPES, measure

from adjudge_server.caches import CacheBytes
from adjudge_server.critics.plan import make_plan
from adjudge_server.critics.prefix_tree import PrefixTree

ROOT = Path(__file__).parent.parent
NAMES = {bar.name for bar in BARS}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.build(TINY)


@pytest.fixture
def results() -> Results:
    return Results({"date": "today"})


def test_the_engine_and_the_slow_ways_compute_the_same(subject: Subject) -> None:
    case = Case((96, 64), POINTWISE, 2)
    assert in_process.largest_difference(subject, case) < 1e-4
    items = in_process.ask(subject.critic, case, seed=2)
    ways = in_process.BASELINES
    alone = ways["one forward each"](subject.plain, items, case.size)
    padded = ways["padded batch"](subject.plain, items, case.size)
    assert isinstance(alone, list) and isinstance(padded, list)
    torch.testing.assert_close(torch.stack(padded), torch.stack(alone), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("one_by_one", "asked"), [(None, 6), (2, 2), (9, 6)])
def test_what_goes_one_by_one_may_be_timed_with_fewer_and_counts_as_all(
    subject: Subject, one_by_one: int | None, asked: int
) -> None:
    nap = 0.05
    numbers: dict[str, int] = {}

    def spin(name: str, items: Sequence[object]) -> None:
        numbers[name] = len(items)
        end = time.process_time() + nap * len(items)
        while time.process_time() < end:
            pass

    names = ("one forward each", "padded batch")
    ways = {name: lambda m, items, size, name=name: spin(name, items) for name in names}
    found = in_process.slow_baselines(subject, Case((96, 64), POINTWISE, 6), ways, one_by_one)
    assert numbers == {"one forward each": asked, "padded batch": 6}
    for seconds in found.values():
        assert seconds > 5.5 * nap


@pytest.mark.parametrize("kind", [POINTWISE, ROUND_ROBIN])
def test_the_floor_counts_no_more_tokens_than_the_engine_computes(
    subject: Subject, kind: str
) -> None:
    items = in_process.ask(subject.critic, Case((96, 64), kind, 4), seed=1)
    least = floor.work_after(items, 0).tokens
    computed = make_plan(items, PrefixTree(0)).num_rows
    assert least <= computed <= 1.2 * least
    known = items[0].shared_tokens
    assert floor.work_after(items, known).tokens == least - known


def test_prompts_that_begin_alike_are_counted_once_up_to_where_they_part(subject: Subject) -> None:
    items = in_process.ask(subject.critic, Case((96, 64), POINTWISE, 1), seed=1)
    (item,) = items
    alone = floor.work_after(items, 0)
    tree = len(item.tree.tokens)
    assert alone.tokens == len(item.token_ids) + tree
    assert floor.work_after([item, item], 0) == alone
    other = replace(item, token_ids=(*item.token_ids[:-1], item.token_ids[-1] + 1))
    assert floor.work_after([item, other], 0).tokens == alone.tokens + 1 + tree


def test_the_floor_of_a_prefix_at_its_own_rate_is_what_it_took() -> None:
    work = floor.prefix_work(100)
    assert floor.suffix_seconds(work, 100, 3.0, TINY) == pytest.approx(3.0)
    assert floor.suffix_seconds_by_kind(work, 100, 3.0, 1.0, TINY) == pytest.approx(3.0)


def test_random_batches_change_no_reward_whatever_is_remembered() -> None:
    def fresh(caches: CacheBytes) -> object:
        return critic_of(build(TINY), TINY, caches)

    known = invariance.pool(fresh(CacheBytes(0, 0)), (48, 48))  # type: ignore[arg-type]
    for caches in (CacheBytes(), CacheBytes(0, 0), CacheBytes(40_000, 40_000)):
        found = invariance.changes(known, fresh(caches), 2)  # type: ignore[arg-type]
        assert found.batches == 2
        assert found.reward < 0.01 and found.margin < 1e-4


def test_a_changed_critic_changes_rewards() -> None:
    known = invariance.pool(critic_of(build(TINY), TINY), (48, 48))
    model = build(TINY)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    found = invariance.changes(known, critic_of(model, TINY), 2)
    assert found.reward > 0.01 and found.margin > 1e-4


def test_a_served_critic_is_measured_beside_the_one_in_process(results: Results) -> None:
    sections.grpc(SMALLEST, results)
    assert results.bars["grpc_throughput_over_in_process"] > 0
    assert {row.what for row in results.rows} == {"in process", "gRPC, client and server"}


def test_peak_memory_is_that_of_the_batch() -> None:
    few, many = (memory.extra((48, 48), count, is_tiny=True) for count in (1, 256))
    assert many.warm > few.warm >= 0


def test_peers_without_an_environment_are_left_out_and_said_to_be(
    results: Results, tmp_path: Path
) -> None:
    for section in peer_sections(tmp_path / "none", tmp_path / "none").values():
        section(SMALLEST, results)
    assert not results.bars and not results.rows
    assert len(results.notes) == 2 and all("not measured" in note for note in results.notes)


def test_cpu_time_of_a_process_includes_its_children() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    program = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]);"
        " print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert tree_cpu_seconds(child.pid) >= 0.29
        child.communicate(b"\n")


def test_one_command_writes_every_bar_by_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.engine", "--smallest", "--only", "engine"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    written = json.loads((tmp_path / "latest.json").read_text())
    assert set(written["bars"]) == NAMES
    measured = {name for name, value in written["bars"].items() if value is not None}
    assert {"cold_8_over_floor", "generate_over_cold_8", "round_robin_8_over_floor"} <= measured
    assert written["environment"]["torch"] == torch.__version__
    assert (tmp_path / "latest.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in done.stdout for name in NAMES)


def test_the_readme_gets_its_figures_between_its_markers(results: Results, tmp_path: Path) -> None:
    results.add("engine", "cold", (96, 64), 8, [1.0, 3.0, 2.0])
    results.bars["cold_8_over_floor"] = 1.2
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{report.BEGIN}\nof last year\n{report.END}\nbelow\n")
    report.write_readme(results, readme)
    report.write_readme(results, readme)
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "last year" not in text
    assert "| engine | cold | 96x64 | 8 | 2 s | 1 to 3 |" in text
    assert text.count("cold_8_over_floor") == 1 and "MISSED" in text
    with pytest.raises(ValueError, match="no figures"):
        (tmp_path / "other.md").write_text("nothing")
        report.write_readme(results, tmp_path / "other.md")


def test_the_readme_of_the_benchmarks_has_its_markers() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert 0 <= text.find(report.BEGIN) < text.find(report.END)


def test_the_script_for_a_gpu_runs_on_the_small_shape() -> None:
    found = measure(SHAPES["small"], "cpu", torch.bfloat16)
    assert "cold_8_over_floor" in found.bars
    assert {"generate", "one forward each", "padded batch"} <= {row.what for row in found.rows}


def test_a_spread_needs_a_measurement() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])
