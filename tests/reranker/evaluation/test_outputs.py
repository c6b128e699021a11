"""Where `adjudge eval` writes: found wrong before anything is judged, and harming nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reranker.evaluation.test_importers import PAIR
from tests.reranker.evaluation.told import Evaluate, as_told, complaints, describes_templates, pair
from tests.reranker.scripted import ScriptedService
from tests.reranker.test_cli import invoke, lines

OUTPUTS = ["--json", "--records", "--plot"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text(lines(PAIR))
    return path


def refused(script: ScriptedService, complaint: str, *arguments: str | Path) -> None:
    result = invoke(script.address, "eval", *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert complaint in complaints(result) and not script.requests


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_labels_are_not_overwritten(script: ScriptedService, file: Path, output: str) -> None:
    (folder := file.parent / "sub").mkdir()
    os.link(file, hard := folder / "hard.jsonl")
    (soft := folder / "soft.jsonl").symlink_to(file)
    for path in (file, folder / ".." / file.name, hard, soft):
        refused(script, f"{output} would overwrite the labels", file, output, path)
    assert file.read_text() == lines(PAIR)


def test_nor_are_labels_that_come_from_standard_input(file: Path) -> None:
    with file.open() as stdin:
        program = "from adjudge_reranker.cli import main; main()"
        command = [sys.executable, "-c", program, "eval", "-", "--records", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=stdin)
    assert done.returncode == 2 and "would overwrite the labels" in done.stderr
    assert file.read_text() == lines(PAIR)


@pytest.mark.parametrize(
    ("one", "other"), [("--json", "--records"), ("--json", "--plot"), ("--records", "--plot")]
)
def test_two_outputs_are_two_files(
    script: ScriptedService, file: Path, one: str, other: str
) -> None:
    new, same = file.parent / "new", file.parent / "." / "x" / ".." / "new"
    (file.parent / "x").mkdir()
    refused(script, f"{one} and {other} are one file", file, one, new, other, same)
    new.write_text("old")
    (link := file.parent / "link").symlink_to(new)
    refused(script, f"{one} and {other} are one file", file, one, new, other, link)
    assert new.read_text() == "old"


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_cannot_be_written_is_found_before_anything_is_judged(
    script: ScriptedService, file: Path, output: str
) -> None:
    (loop := file.parent / "loop").symlink_to(loop)
    refused(script, f"{output} takes a file: standard output", file, output, "-")
    refused(script, "directory", file, output, file.parent)
    for path in ("/proc/x.json", loop, file / "below", file.parent / "no" / "x", "n" * 300):
        refused(script, f"{output} cannot be written", file, output, path)


def test_looking_leaves_nothing_behind_and_truncates_nothing(
    script: ScriptedService, file: Path
) -> None:
    folder = file.parent
    (folder / "old.json").write_text("old")
    (folder / "link.jsonl").symlink_to(folder / "target.jsonl")
    file.write_text("{")
    outputs = ("--json", folder / "old.json", "--records", folder / "link.jsonl")
    refused(script, "not JSON", file, *outputs, "--plot", folder / "new.png")
    assert (folder / "old.json").read_text() == "old"
    names = {path.name for path in folder.iterdir()}
    assert names == {"old.json", "link.jsonl", "items.jsonl"}


def test_labels_that_cannot_be_found_are_a_complaint_as_before(
    script: ScriptedService, tmp_path: Path
) -> None:
    (loop := tmp_path / "loop").symlink_to(loop)
    refused(script, "cannot be read", loop, "--json", tmp_path / "out.json")


def test_what_is_no_plain_file_may_be_written(script: ScriptedService, file: Path) -> None:
    script.plan(describes_templates, as_told)
    file.write_text(lines(pair("[1, 0, 0.6, 0.2, 0.2]", "first")))
    assert invoke(script.address, "eval", file, "--json", "/dev/null").exit_code == 0


def test_a_pipe_folds_no_names(told: str, evaluate: Evaluate) -> None:
    long = "a subset whose name is as long as those of benchmarks are, such as VL-RewardBench"
    rows = [pair("[1, 0, 0.6, 0.2, 0.2]", "first", subset=long)]
    result, _, _ = evaluate(told, *rows, pair("item OFF_FORMAT", "first"))
    assert result.stdout.count(long) == 2  # in both tables
    assert result.stdout.count("calibration error of preference") == 3


def test_the_layout_is_not_called_a_format(script: ScriptedService, file: Path) -> None:
    script.plan(describes_templates, as_told)
    result = invoke(script.address, "eval", file, "--format", "adjudge")
    assert result.exit_code == 2 and not script.requests
    shown = invoke(script.address, "eval", "--help").stdout
    assert "--layout" in shown and "--format" not in shown
