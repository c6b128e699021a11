"""Files of prompts for `score`, `compare`, `rank` and `critique`: they may come from strangers, and
what they name is sent to the server only where it may be."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from adjudge_reranker import RewardClient
from tests.conftest import SEVEN
from tests.reranker.scripted import ScriptedService
from tests.reranker.test_cli import describes_itself, invoke, lines, records

COMMANDS = [["score"], ["compare"], ["rank"], ["critique"], ["critique", "--pairwise"]]
every_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a picture in it, one beside it, and a link that leads out of it."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (inside / "seven.png", tmp_path / "other.png"):
        path.write_bytes(SEVEN.read_bytes())
    (inside / "link.png").symlink_to(tmp_path / "other.png")
    (inside / "secret.png").write_text("the key is 1234")
    return inside


def prompts(folder: Path, *pictures: str, **fields: Any) -> Path:
    path = folder / "prompts.jsonl"
    job = {"prompt": "What?", "candidates": ["7", "1"], "images": list(pictures)} | fields
    path.write_text(lines(job), "utf-8")
    return path


def complaint(result: Any) -> str:
    return " ".join(result.stderr.replace("│", " ").split())


@every_command
def test_paths_start_at_the_file_wherever_the_command_runs(
    command: list[str], address: str, folder: Path
) -> None:
    result = invoke(address, *command, "--input", prompts(folder, "seven.png"))
    assert result.exit_code == 0, result.stderr
    (record,) = records(result)
    with RewardClient(address) as client:
        expected = client.score([SEVEN, "What?"], ["7", "1"])
    if command == ["score"]:
        assert tuple(record["rewards"]) == expected.rewards


def test_of_lines_that_come_through_a_pipe_paths_start_where_the_command_runs(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    pipe = folder.parent / "pipe"
    os.mkfifo(pipe)
    written = prompts(folder, "seven.png").read_text("utf-8")
    threading.Thread(target=pipe.write_text, args=(written,), daemon=True).start()
    result = invoke(address, "score", "--input", pipe)
    assert result.exit_code == 0, result.stderr


@every_command
@pytest.mark.parametrize("picture", ["/etc/passwd", "../other.png", "link.png"])
def test_what_lies_outside_the_folder_is_refused_before_anything_is_sent(
    command: list[str], picture: str, script: ScriptedService, folder: Path
) -> None:
    result = invoke(script.address, *command, "--input", prompts(folder, picture))
    assert result.exit_code == 2
    assert "line 1" in complaint(result) and "--images-anywhere" in complaint(result)
    assert script.requests == []


@every_command
@pytest.mark.parametrize("options", [[], ["--format", "table"]])
def test_what_is_no_picture_is_not_sent(
    command: list[str], options: list[str], script: ScriptedService, folder: Path
) -> None:
    script.plan(describes_itself)
    arguments = [*command, *options, "--images-anywhere", "--input"]
    result = invoke(script.address, *arguments, prompts(folder, "seven.png", "secret.png"))
    assert result.exit_code == 1
    assert "NOT_AN_IMAGE" in result.stdout and "images[1]" in result.stdout
    assert len(script.requests) == 1  # what the model is


def test_a_picture_that_went_away_meanwhile_is_that_prompts_failure(
    script: ScriptedService, folder: Path
) -> None:
    def takes_it_away(request: Any, context: Any) -> Any:
        (folder / "seven.png").unlink()
        return describes_itself(request, context)

    script.plan(takes_it_away)
    result = invoke(script.address, "score", "--input", prompts(folder, "seven.png"))
    (record,) = records(result)
    assert result.exit_code == 1 and record["rewards"] == [None, None]
    assert record["error"]["reason"] == "UNREADABLE_IMAGE"


def test_the_folder_can_be_another_and_left_where_that_is_allowed(
    address: str, folder: Path
) -> None:
    elsewhere = prompts(folder.parent, "seven.png")
    assert invoke(address, "score", "--input", elsewhere).exit_code == 2
    assert invoke(address, "score", "--input", elsewhere, "--images", folder).exit_code == 0
    outside = prompts(folder, "../other.png", "link.png", str(SEVEN))
    assert invoke(address, "score", "--input", outside, "--images-anywhere").exit_code == 0


@pytest.mark.parametrize("option", [["--images", "."], ["--images-anywhere"]])
def test_the_options_of_files_are_refused_without_one(address: str, option: list[str]) -> None:
    result = invoke(address, "score", "--prompt", "Why?", *option, "so")
    assert result.exit_code == 2 and "--input" in complaint(result)


@every_command
@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": "\ud800"}, '"prompt" has a lone surrogate'),
        ({"candidates": ["7", "1\udfff"]}, '"candidates[1]" has a lone surrogate'),
        ({"images": ["https://host/7.png"]}, "is a URL"),
        ({"images": [7]}, '"images[0]" must be a picture'),
        ({"images": ["\ud800.png"]}, '"images[0]"'),
        ({"images": ["a\0b.png"]}, '"images[0]"'),
    ],
)
def test_a_mistake_in_a_line_is_told_with_its_field(
    command: list[str], fields: dict[str, Any], told: str, script: ScriptedService, folder: Path
) -> None:
    result = invoke(script.address, *command, "--input", prompts(folder, **fields))
    assert result.exit_code == 2
    assert told in complaint(result)
    assert script.requests == []


def test_a_number_too_large_for_json_is_refused_as_an_id(address: str, folder: Path) -> None:
    path = folder / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a", "candidates": ["x"]})[:-1] + ', "id": 1e999}')
    result = invoke(address, "score", "--input", path)
    assert result.exit_code == 2 and '"id"' in complaint(result)
