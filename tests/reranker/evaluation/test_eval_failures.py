"""`adjudge eval` where something fails: the input, an item, the server, or what is installed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.reranker.evaluation.test_importers import GROUP, PAIR, SCORE
from tests.reranker.evaluation.told import (
    Evaluate,
    as_told,
    complaints,
    describes_templates,
    read,
    score,
)
from tests.reranker.scripted import ScriptedService, busy
from tests.reranker.test_cli import invoke, lines


def test_failures_are_counted_by_reason_and_are_in_no_figure(
    told: str, evaluate: Evaluate, tmp_path: Path
) -> None:
    rows = [
        score("5", 50, subset="good"),
        score("7", 70, subset="good"),
        score("item INPUT_TOO_LONG", 100, subset="bad"),
        score("call CRITIC_FAILURE", 100, subset="bad"),
        score("nan", 100, subset="bad"),
        GROUP | {"chosen": ["9"], "rejected": ["1", "item OFF_FORMAT"], "subset": "bad"},
        GROUP | {"chosen": ["9"], "rejected": ["1", "9"], "subset": "good"},
    ]
    result, found, records = evaluate(told, *rows)
    reasons = {"CRITIC_FAILURE": 1, "INPUT_TOO_LONG": 1, "INTERNAL": 1, "OFF_FORMAT": 1}
    assert result.exit_code == 1
    assert found["overall"]["counts"] == {
        "total": 7,
        "answered": 3,
        "failed": 4,
        "reasons": reasons,
    }
    assert found["overall"]["scores"]["mean_absolute_error"] == {
        "value": 0.0,
        "n": 2,
        "interval": [0.0, 0.0],
        "method": "bootstrap",
        "clusters": None,
    }
    assert found["overall"]["groups"]["best_is_chosen"]["value"] == 0.5
    good, bad = found["subsets"]
    assert (good["subset"], good["counts"]["answered"], good["counts"]["failed"]) == ("good", 3, 0)
    assert bad["counts"] == {"total": 4, "answered": 0, "failed": 4, "reasons": reasons}
    assert bad["scores"]["mean_absolute_error"]["value"] is None
    assert bad["groups"]["best_is_chosen"]["n"] == 0
    assert ["error" in record for record in records] == [False, False, *[True] * 4, False]
    assert [set(outcome) == {"error"} for outcome in records[5]["outcomes"]] == [False, False, True]
    assert "reward" not in records[2] and records[3]["provenance"] is None


@pytest.mark.parametrize(
    ("rows", "options", "complaint"),
    [
        ([PAIR, SCORE | {"score": 101}], (), 'line 2: "score" must be a number from 0 to 100'),
        ([PAIR, PAIR | {"images": ["no.png"]}], (), 'line 2: "images[0]" names no picture'),
        ([PAIR], ("--layout", "vl-rewardbench"), 'line 1: "id"'),
        ([PAIR], ("--layout", "csv"), "csv"),
        ([PAIR], ("--images", "missing"), "missing"),
        ([PAIR], ("--plot", "missing/plot.png"), "missing"),
        ([], (), "no records"),
    ],
)
def test_bad_input_exits_with_2_before_anything_is_judged(
    script: ScriptedService, evaluate: Evaluate, rows: Any, options: Any, complaint: str
) -> None:
    result, found, records = evaluate(script.address, *rows, options=options)
    assert result.exit_code == 2 and result.stdout == ""
    assert complaint in complaints(result)
    assert not found and not records and not script.requests


def test_an_unreachable_server_exits_with_3(evaluate: Evaluate) -> None:
    result, found, _ = evaluate("127.0.0.1:1", PAIR, options=("--timeout", "0.3"))
    assert result.exit_code == 3 and not found and "127.0.0.1:1" in result.stderr


def test_a_deadline_is_a_failure_of_its_item_and_exits_with_4(
    script: ScriptedService, evaluate: Evaluate
) -> None:
    release = threading.Event()

    def slow_for_one(request: Any, context: Any) -> Any:
        if request.candidates[0].parts[0].text == "3":
            release.wait(20)
        return as_told(request, context)

    script.plan(describes_templates, *[slow_for_one] * 3)
    try:
        rows = [score("5", 50), score("3", 50), score("6", 60)]
        result, found, _ = evaluate(script.address, *rows, options=("--timeout", "1"))
    finally:
        release.set()
    assert result.exit_code == 4
    assert found["overall"]["counts"]["reasons"] == {"DEADLINE_EXCEEDED": 1}
    assert found["overall"]["scores"]["mean_absolute_error"]["n"] == 2


def test_what_is_left_when_the_server_stays_away_is_counted_and_not_dropped(
    script: ScriptedService, evaluate: Evaluate
) -> None:
    def busy_after_two(request: Any, context: Any) -> Any:
        text = request.candidates[0].parts[0].text
        return (as_told if text in "12" else busy(retry_after=3600.0))(request, context)

    script.plan(describes_templates, *[busy_after_two] * 100)
    rows = [score(str(i), 10 * i) for i in range(1, 10)] * 3
    result, found, records = evaluate(script.address, *rows)
    assert result.exit_code == 3
    assert "24 items were not judged" in result.stderr
    counts = found["overall"]["counts"]
    assert (counts["total"], counts["answered"]) == (27, 2)
    assert counts["reasons"] == {"NOT_JUDGED": 24, "QUEUE_FULL": 1}
    assert len(records) == 27 and records[-1]["error"]["reason"] == "NOT_JUDGED"


def test_readings_of_several_epochs_are_pointed_out(
    script: ScriptedService, evaluate: Evaluate
) -> None:
    def after_an_update(request: Any, context: Any) -> Any:
        response = as_told(request, context)
        response.provenance.weights_epoch += request.candidates[0].parts[0].text == "6"
        return response

    script.plan(describes_templates, *[after_an_update] * 2)
    result, found, _ = evaluate(script.address, score("5", 50), score("6", 60))
    assert [one["weights_epoch"] for one in found["critics"]] == [3, 4]
    assert "several weights epochs" in result.stderr


def test_a_killed_server_ends_the_run_with_3_and_keeps_what_was_read(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "adjudge_server",
        "--critic",
        "fake",
        "--listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        address = server.stdout.readline().split()[-1]
        records, figures = tmp_path / "out.jsonl", tmp_path / "out.json"

        def kill_when_begun() -> None:
            while not records.exists() or records.read_bytes().count(b"\n") < 20:
                time.sleep(0.002)
            os.kill(server.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_begun)
        killer.start()
        rows = [SCORE | {"prompt": f"Why {i}?"} for i in range(5000)]
        result = invoke(
            address,
            *("eval", "-", "--timeout", "1", "--records", records, "--json", figures),
            stdin=lines(*rows),
        )
        killer.join()
    found, written = read(figures, records)
    counts = found["overall"]["counts"]
    assert result.exit_code == 3
    assert counts["total"] == len(written) == 5000
    assert counts["answered"] >= 20 and counts["reasons"]["NOT_JUDGED"] > 0
    assert counts["answered"] + counts["failed"] == 5000
    assert found["overall"]["scores"]["pearson"]["n"] == counts["answered"]


@pytest.mark.parametrize(
    ("missing", "options"), [("scipy", ()), ("matplotlib", ("--plot", "plot.png"))]
)
def test_without_the_extra_the_command_says_what_to_install(
    address: str, tmp_path: Path, missing: str, options: tuple[str, ...]
) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(lines(PAIR))
    program = (
        f"import sys; sys.modules[{missing!r}] = None;"
        " from adjudge_reranker.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "eval", str(file), "--server", address, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and missing in done.stderr
    assert "pip install 'adjudge[eval]'" in done.stderr


def test_the_other_commands_load_none_of_the_extra(address: str) -> None:
    program = (
        "import sys; from adjudge_reranker.cli.commands import app\n"
        "try: app(['info'])\n"
        "finally: print(*{'scipy', 'matplotlib', 'pyarrow'} & set(sys.modules), file=sys.stderr)"
    )
    environment = os.environ | {"ADJUDGE_SERVER": address}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and '"name": "fake"' in done.stdout
    assert done.stderr.split() == []
