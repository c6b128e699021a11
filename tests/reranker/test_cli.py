"""The command, as scripts and people use it."""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import RewardClient
from adjudge_reranker.cli.commands import app
from tests.conftest import SEVEN, Launch
from tests.reranker.scripted import ScriptedService, answer, busy, fail, good_scores
from tests.server import checkpoints

TOO_LONG = "word " * 40_000
Run = Callable[..., Result]


@pytest.fixture
def run(address: str) -> Run:
    """Runs the command against the fake critic."""
    return lambda *arguments, stdin=None: invoke(address, *arguments, stdin=stdin)


def invoke(address: str, *arguments: str | Path, stdin: str | None = None) -> Result:
    environment = {"ADJUDGE_SERVER": address, "COLUMNS": "140"}
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env=environment)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(result: Result) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in result.stdout.splitlines()]


def lines(*jobs: dict[str, Any]) -> str:
    return "".join(json.dumps(job) + "\n" for job in jobs)


def test_score_writes_json_lines_when_nobody_watches(run: Run, client: RewardClient) -> None:
    result = run("score", "--prompt", "Why?", "so", "because")
    (record,) = records(result)
    assert result.exit_code == 0
    assert tuple(record["rewards"]) == client.score("Why?", ["so", "because"]).rewards
    assert record["outcomes"][1]["reward"] == record["rewards"][1]
    assert record["provenance"]["model"] == "fake"
    assert result.stderr == ""


def test_a_failed_candidate_is_null_beside_its_error_and_the_exit_code_is_1(run: Run) -> None:
    result = run("score", "--prompt", "Why?", "so", TOO_LONG)
    (record,) = records(result)
    assert result.exit_code == 1
    assert record["rewards"][0] is not None and record["rewards"][1] is None
    assert set(record["outcomes"][1]) == {"error"}
    assert record["outcomes"][1]["error"]["reason"] == "INPUT_TOO_LONG"
    assert record["outcomes"][1]["error"]["kind"] == "RequestRefused"


def test_pictures_come_before_the_prompt(run: Run, client: RewardClient) -> None:
    (record,) = records(run("score", "--prompt", "What?", "--image", SEVEN, "7"))
    assert tuple(record["rewards"]) == client.score([SEVEN, "What?"], ["7"]).rewards


def test_many_prompts_are_answered_in_their_order(run: Run, client: RewardClient) -> None:
    jobs = [{"prompt": f"Why {i}?", "candidates": ["so", "no"], "id": f"q{i}"} for i in range(40)]
    result = run("score", "--input", "-", stdin=lines(*jobs))
    assert [record["id"] for record in records(result)] == [job["id"] for job in jobs]
    for record, job in zip(records(result), jobs, strict=True):
        assert tuple(record["rewards"]) == client.score(job["prompt"], ["so", "no"]).rewards


def test_an_id_can_be_anything_and_defaults_to_the_line(run: Run) -> None:
    jobs = [
        {"prompt": "a", "candidates": ["x"], "id": {"set": 1, "row": [2]}},
        {"prompt": "b", "candidates": ["x"], "id": None},
        {"prompt": "c", "candidates": ["x"], "images": [str(SEVEN)]},
    ]
    ids = [record["id"] for record in records(run("score", "--input", "-", stdin=lines(*jobs)))]
    assert ids == [{"set": 1, "row": [2]}, None, 2]


def test_candidates_come_from_a_file_one_a_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "candidates.txt"
    file.write_bytes("so\r\nwhy\u2028not\n\nbecause\n".encode())
    from_file = records(run("score", "--prompt", "Why?", "--candidates", file))
    from_stdin = records(
        run("score", "--prompt", "Why?", "--candidates", "-", stdin="so\nwhy\u2028not\n\nbecause")
    )
    given = records(run("score", "--prompt", "Why?", "so", "why\u2028not", "", "because"))
    assert from_file[0]["rewards"] == from_stdin[0]["rewards"] == given[0]["rewards"]


def test_compare_takes_all_pairs_or_those_of_the_input(run: Run, client: RewardClient) -> None:
    (record,) = records(run("compare", "--prompt", "Why?", "a", "b", "c"))
    assert record["pairs"] == [[0, 1], [0, 2], [1, 2]]
    expected = client.compare("Why?", ["a", "b", "c"], [(0, 1), (0, 2), (1, 2)])
    assert tuple(record["margins"]) == expected.margins
    assert tuple(record["preferences"]) == expected.preferences
    job = {"prompt": "Why?", "candidates": ["a", "b", "c"], "pairs": [[2, 1]]}
    (record,) = records(run("compare", "--input", "-", stdin=lines(job)))
    assert record["margins"] == pytest.approx([-expected.outcomes[2].margin])  # type: ignore[union-attr]


def test_compare_in_one_order_has_no_position_bias(run: Run) -> None:
    (record,) = records(run("compare", "--prompt", "Why?", "--order", "as_given", "a", "b"))
    assert record["outcomes"][0]["position_bias"] is None


def test_rank_names_the_best_and_compares_the_others_with_it(
    run: Run, client: RewardClient
) -> None:
    candidates = ["a", "b", "c"]
    (record,) = records(run("rank", "--prompt", "Why?", *candidates))
    rewards = client.score("Why?", candidates).rewards
    best = max(range(3), key=lambda i: rewards[i] or 0.0)
    assert record["best"] == best and tuple(record["rewards"]) == rewards
    first, *others = record["ranking"]
    assert first["index"] == best and first["against_best"] is None
    for entry in others:
        (expected,) = client.compare("Why?", candidates, [(entry["index"], best)]).margins
        assert entry["against_best"]["margin"] == expected


POINTWISE_ONLY = """
[[template]]
name = "mine/pointwise"
version = 2147483647
kind = "pointwise"
text = "[{prompt}] [{candidate}]"
opening = "Score: "
scores = { lowest = 1, highest = 5 }
terminators = ["."]
"""


@pytest.fixture(scope="module")
def does_not_compare(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Servers that compare nothing by default: a scalar head, and pairs read after a critique."""
    folder = tmp_path_factory.mktemp("models")
    own = folder / "own.toml"
    own.write_text(POINTWISE_ONLY, encoding="utf-8")
    scalar = launch(model=checkpoints.write_text_model(folder / "rm", scalar=True))
    after = launch(critic="fake", template_set="r1-reward", templates=own)
    return {"scalar": f"127.0.0.1:{scalar.port}", "after": f"127.0.0.1:{after.port}"}


@pytest.mark.parametrize("kind", ["scalar", "after"])
def test_rank_goes_by_rewards_alone_where_the_critic_does_not_compare(
    does_not_compare: dict[str, str], kind: str
) -> None:
    arguments = ["rank", "--prompt", "What is 2 + 2?", "4", "5", "A dog."]
    result = invoke(does_not_compare[kind], *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    (record,) = records(result)
    assert record["rewards"][record["best"]] == max(record["rewards"])
    assert [entry["against_best"] for entry in record["ranking"]] == [None] * 3
    table = invoke(does_not_compare[kind], *arguments, "--format", "table")
    assert table.exit_code == 0 and "A dog." in table.stdout


def test_info_tells_the_largest_version_that_a_template_may_have(
    does_not_compare: dict[str, str],
) -> None:
    result = invoke(does_not_compare["after"], "info")
    assert result.exit_code == 0
    (record,) = records(result)
    assert record["templates"][0]["version"] == 2**31 - 1


def test_rank_shows_a_table(run: Run) -> None:
    result = run("rank", "--format", "table", "--prompt", "Why?", "so", "", TOO_LONG)
    assert result.exit_code == 1
    for word in ("rank", "reward", "± sd", "margin", "preference", "position bias", "candidate"):
        assert word in result.stdout
    assert "(empty)" in result.stdout and "INPUT_TOO_LONG" in result.stdout
    assert " ms" in result.stdout


def test_rank_of_nothing_judged_is_an_error_and_no_best(run: Run) -> None:
    result = run("rank", "--prompt", "Why?", TOO_LONG, TOO_LONG + "!")
    (record,) = records(result)
    assert result.exit_code == 1
    assert record["rewards"] == [None, None] and "best" not in record
    assert record["error"]["kind"] == "NothingJudged"
    assert [f["reason"] for f in record["error"]["failures"]] == ["INPUT_TOO_LONG"] * 2
    table = run("rank", "--format", "table", "--prompt", "Why?", TOO_LONG)
    assert "INPUT_TOO_LONG" in table.stdout and "UNKNOWN" not in table.stdout


def test_critique_writes_texts_and_numbers(run: Run) -> None:
    (record,) = records(run("critique", "--prompt", "Why?", "so", "no"))
    assert len(record["critiques"]) == 2 and None not in record["rewards"]
    assert record["critiques"][0]["text"] and record["critiques"][0]["end"] == "complete"
    (record,) = records(run("critique", "--pairwise", "--prompt", "Why?", "so", "no"))
    assert record["pairs"] == [[0, 1]] and None not in record["margins"]


@pytest.mark.parametrize("prompts", [1, 2])
def test_critique_shows_words_and_verdicts(run: Run, prompts: int) -> None:
    stdin = lines(*[{"prompt": "Why?", "candidates": ["so"]}] * prompts)
    result = run("critique", "--format", "table", "--input", "-", stdin=stdin)
    assert result.exit_code == 0
    assert "looked at nothing" in result.stdout
    assert result.stdout.count("reward ") == prompts


def test_a_critique_that_is_cut_off_fails_without_a_number(run: Run) -> None:
    result = run("critique", "--max-tokens", "1", "--prompt", "Why?", "so")
    (record,) = records(result)
    assert result.exit_code == 1
    assert record["rewards"] == [None]
    assert record["critiques"][0]["error"]["reason"] == "VERDICT_NOT_FOUND"
    assert record["critiques"][0]["text"]


def test_help_states_the_exit_codes() -> None:
    result = invoke("", "--help")
    assert result.exit_code == 0
    assert "Exit codes: 0" in result.stdout


GOOD = {"prompt": "a", "candidates": ["x"]}


@pytest.mark.parametrize(
    ("arguments", "stdin", "complaint"),
    [
        (["score"], "", "prompt"),
        (["score", "--prompt", "Why?"], "", "no candidates"),
        (["score", "--prompt", "Why?", "--candidates", "-", "so"], "no", "not both"),
        (["score", "--prompt", "Why?", "--input", "-"], lines(GOOD), "nothing else"),
        (["score", "--prompt", "Why?", "--image", "missing.png", "so"], "", "missing.png"),
        (["score", "--input", "missing.jsonl"], "", "missing.jsonl"),
        (["score", "--prompt", "Why?", "--timeout", "0", "so"], "", "timeout"),
        (["score", "--prompt", "Why?", "--timeout", "inf", "so"], "", "timeout"),
        (["score", "--prompt", "Why?", "--format", "csv", "so"], "", "csv"),
        (["score", "--prompt", "Why?", "--model", "other", "so"], "", "UNKNOWN_MODEL"),
        (["compare", "--prompt", "Why?", "so"], "", "two candidates"),
        (["score", "--input", "-"], lines(GOOD, GOOD) + "{", "line 3"),
        (["score", "--input", "-"], "[]\n", "not a JSON object"),
        (["score", "--input", "-"], lines(GOOD | {"image": ["x.png"]}), '"image"'),
        (["score", "--input", "-"], lines({"candidates": ["x"]}), '"prompt"'),
        (["score", "--input", "-"], lines({"prompt": "a"}), '"candidates"'),
        (["score", "--input", "-"], lines({"prompt": "a", "candidates": "x"}), '"candidates"'),
        (["score", "--input", "-"], lines({"prompt": "a", "candidates": []}), '"candidates"'),
        (["score", "--input", "-"], lines(GOOD | {"images": ["missing.png"]}), "missing.png"),
        (["compare", "--input", "-"], lines(GOOD | {"pairs": [[0, 1]]}), '"pairs"'),
        (["compare", "--input", "-"], lines(GOOD | {"pairs": [[0, True]]}), '"pairs"'),
    ],
)
def test_bad_input_exits_with_2_before_anything_is_judged(
    run: Run, arguments: list[str], stdin: str, complaint: str
) -> None:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


def test_an_unreachable_server_exits_with_3() -> None:
    result = invoke("127.0.0.1:1", "score", "--prompt", "Why?", "--timeout", "0.3", "so")
    assert result.exit_code == 3
    assert result.stdout == "" and "127.0.0.1:1" in result.stderr


def test_a_server_that_is_not_ready_exits_with_3(script: ScriptedService) -> None:
    script.plan(fail(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry_after=60.0))
    result = invoke(script.address, "info")
    assert result.exit_code == 3 and "NOT_READY" in result.stderr


def test_a_server_of_another_kind_exits_with_3(script: ScriptedService) -> None:
    script.plan(fail(grpc.StatusCode.UNIMPLEMENTED))
    assert invoke(script.address, "info").exit_code == 3


def describes_itself(request: Any, context: Any) -> pb.GetModelResponse:
    return pb.GetModelResponse()


def test_a_deadline_exits_with_4_and_null_rewards(script: ScriptedService) -> None:
    release = threading.Event()
    slow = lambda request, context: release.wait(20) and good_scores(request, context)  # noqa: E731
    script.plan(describes_itself, slow)
    try:
        result = invoke(script.address, "score", "--prompt", "a", "--timeout", "0.3", "x", "y")
    finally:
        release.set()
    assert result.exit_code == 4
    (record,) = records(result)
    assert record["rewards"] == [None, None]
    assert record["error"]["kind"] == "DeadlineExceeded"


def test_a_prompt_that_is_refused_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(SEVEN.read_bytes()[:20])
    jobs = [GOOD, GOOD | {"images": [broken.name]}, GOOD]
    result = run("score", "--input", "-", "--images", tmp_path, stdin=lines(*jobs))
    assert result.exit_code == 1
    first, second, third = records(result)
    assert first["rewards"] == third["rewards"] != [None]
    assert second["rewards"] == [None]
    assert second["error"]["reason"] == "UNDECODABLE_IMAGE"


def test_a_server_that_goes_away_ends_the_run_with_3(script: ScriptedService) -> None:
    script.plan(describes_itself, *[busy(retry_after=3600.0)] * 100)
    result = invoke(script.address, "score", "--input", "-", stdin=lines(*[GOOD] * 50))
    assert result.exit_code == 3
    assert [record["rewards"] for record in records(result)] == [[None]]
    assert "49 prompts were not judged" in result.stderr


def test_what_is_still_under_way_when_the_run_ends_is_cancelled(script: ScriptedService) -> None:
    all_arrived = threading.Barrier(3)
    was_cancelled = queue.SimpleQueue[bool]()

    def step(request: Any, context: Any) -> pb.ScoreCandidatesResponse:
        cancelled = threading.Event()
        context.add_callback(cancelled.set)
        all_arrived.wait(20)
        if request.candidates[0].parts[0].text == "first":
            busy(retry_after=3600.0)(request, context)
        was_cancelled.put(cancelled.wait(20))
        return good_scores(request, context)

    script.plan(describes_itself, *[step] * 3)
    jobs = [{"prompt": "a", "candidates": [name]} for name in ("first", "second", "third")]
    assert invoke(script.address, "score", "--input", "-", stdin=lines(*jobs)).exit_code == 3
    assert [was_cancelled.get(timeout=20) for _ in range(2)] == [True, True]


def test_candidates_have_no_power_over_the_terminal(run: Run) -> None:
    hostile = "\x1b[31mred\x1b[0m [bold]bold[/bold] \u202eleft \r\x07"
    result = run("rank", "--format", "table", "--prompt", hostile, hostile, "so")
    assert "\x1b" not in result.stdout and "\u202e" not in result.stdout
    assert "\x07" not in result.stdout and "[bold]bold[/bold]" in result.stdout


def test_a_flipped_verdict_is_pointed_out(script: ScriptedService) -> None:
    flipped = pb.Comparison(margin=0.1, preference=0.5, position_bias=-2.0, within_noise=True)
    outcome = pb.CompareOutcome(comparison=flipped)
    script.plan(describes_itself, answer(pb.CompareCandidatesResponse(outcomes=[outcome])))
    result = invoke(script.address, "compare", "--format", "table", "--prompt", "Why?", "a", "b")
    assert "flips with the order" in result.stdout
    assert "within the noise floor" in result.stdout


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_libraries_the_command_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None;"
        " from adjudge_reranker.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program, "info"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "pip install 'adjudge[cli]'" in done.stderr


def test_the_module_runs_as_the_command_does(address: str) -> None:
    command = [sys.executable, "-m", "adjudge_reranker.cli", "info", "--server", address]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["name"] == "fake"


def test_the_example_chooses_an_answer(address: str) -> None:
    example = Path(__file__).parents[2] / "examples" / "best_of_n.py"
    done = subprocess.run(
        [sys.executable, example],
        env={"ADJUDGE_SERVER": address, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 3
