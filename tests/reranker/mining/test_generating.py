"""`adjudge generate`: candidates from a real endpoint, in a file that outlives its runs."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from adjudge_reranker.cli.commands import app
from adjudge_reranker.content import Message
from adjudge_reranker.evaluation.records import BadRecord
from adjudge_reranker.generation import (
    Finish,
    GenerationError,
    OpenAIPolicy,
    Order,
    PolicyFault,
    PolicyRefused,
    PolicyUnavailable,
    Sample,
)
from adjudge_reranker.mining import (
    CandidatesFile,
    CannotResume,
    Generated,
    NotGenerated,
    PromptFile,
    Reason,
    Wanted,
    generate_candidates,
)
from adjudge_reranker.mining.generating import Outcome
from tests.conftest import SEVEN
from tests.reranker.generation.endpoint import Endpoint, chat_endpoint, completion
from tests.reranker.mining.mining import COMMAND, finish, read, write

NUM_PROMPTS = 40


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with chat_endpoint() as endpoint:
        endpoint.answer = lambda body: completion(f"answer {body.get('seed')} to {asked(body)}")
        yield endpoint


def asked(body: dict[str, Any]) -> Any:
    return body["messages"][-1]["content"]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def arguments(endpoint: Endpoint, file: Path, out: Path, *options: str) -> list[str]:
    command = ["generate", str(file), "--out", str(out)]
    return [*command, "--policy-url", endpoint.url, "--policy-model", "policy", *options]


def start(endpoint: Endpoint, file: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """In a process of its own."""
    command = [sys.executable, "-c", COMMAND, *arguments(endpoint, file, out, *options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(endpoint: Endpoint, file: Path, out: Path, *options: str) -> tuple[int, str, str]:
    """In this process, which starts sooner."""
    result = CliRunner().invoke(app, arguments(endpoint, file, out, *options))
    return result.exit_code, result.stdout, " ".join(result.stderr.replace("│", " ").split())


def numbers(printed: str) -> dict[str, int]:
    """The rows of the summary."""
    rows = [re.split(r"\s*│\s*", line.strip("│┃ ")) for line in printed.splitlines()]
    return {" ".join(row[:2]).strip(): int(row[2]) for row in rows if row[-1].isdigit()}


def questions(tmp_path: Path, *prompts: str) -> Path:
    return write(tmp_path / "in.jsonl", ({"prompt": prompt} for prompt in prompts))


class Script:
    """A policy that answers in this process; what is an error or a finish, it gives as it is."""

    def __init__(self, answers: dict[str, list[str | GenerationError | Finish]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def samples(
        self, prompt: Sequence[Message], order: Order
    ) -> AsyncGenerator[list[Sample[str]], None]:
        text = str(prompt[-1].parts[-1])
        self.asked.append(text)
        answers = self.answers.get(text, [f"{text} {i}" for i in range(order.num_wanted)])
        for index in reversed(order.begin(min(len(answers), order.num_wanted))):
            await asyncio.sleep(0)
            answer = answers[index]
            if isinstance(answer, Finish):
                yield [Sample(index, "text", answer)]
            else:
                yield [Sample(index, answer)]


def generate(
    policy: Any, file: Path, out: Path, wanted: Wanted | None = None, **how: Any
) -> list[Outcome]:
    async def collect(source: PromptFile, output: CandidatesFile) -> list[Outcome]:
        outcomes = generate_candidates(policy, source, wanted or Wanted(3), output)
        async with aclosing(outcomes):
            return [outcome async for outcome in outcomes]

    source = PromptFile.check(file, with_candidates=False)
    with CandidatesFile.open(out, source, {"policy": "script"}, **how) as output:
        return asyncio.run(collect(source, output))


def test_what_is_generated_is_what_mine_takes(
    endpoint: Endpoint, address: str, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(SEVEN, tmp_path / "pictures" / "seven.png")
    chat = [{"role": "user", "content": "Why?"}]
    rows: list[dict[str, Any]] = [
        {"prompt": "What?", "images": ["seven.png"], "id": ["a", 1]},
        {"prompt": chat},
    ]
    file, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    folder = ("--images", str(tmp_path / "pictures"))
    options = ("-n", "3", "--seed", "5", "--temperature", "0.5", "--max-tokens", "9")
    process = start(endpoint, file, out, *options, *folder)
    printed, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert numbers(printed) == {"prompts with candidates": 2}
    assert sorted(body["seed"] for body in endpoint.requests) == [5, 5, 6, 6, 7, 7]
    assert {(body["temperature"], body["max_tokens"]) for body in endpoint.requests} == {(0.5, 9)}
    whole = {str(row["id"]): row for row in read(out)}
    assert whole["1"] == {
        "id": 1,
        "prompt": chat,
        "candidates": [f"answer {seed} to Why?" for seed in (5, 6, 7)],
    }
    pictured = whole["['a', 1]"]
    assert pictured.pop("candidates")[0].startswith("answer 5 to [{'type': 'image_url'")
    assert pictured == rows[0]
    finish(address, out, tmp_path / "pairs.jsonl", *folder)
    pairs = read(tmp_path / "pairs.jsonl")
    assert {pair["provenance"]["id"] for pair in pairs} == {"1", '["a", 1]'}
    assert {len(pair["images"]) for pair in pairs} == {0, 1}


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_asks_no_more_than_what_was_under_way_again(
    endpoint: Endpoint, tmp_path: Path, kill: signal.Signals
) -> None:
    file = questions(tmp_path, *(f"{i}?" for i in range(NUM_PROMPTS)))
    out = tmp_path / "out.jsonl"
    options = ("-n", "2", "--seed", "0", "--in-flight", "3")
    hung, num_hanging = threading.Event(), [0]

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if len(endpoint.requests) > NUM_PROMPTS:
            num_hanging[0] += 1
            hung.wait(120)  # so that some are under way for certain
        return completion(f"answer {body['seed']} to {asked(body)}")

    endpoint.answer = answer
    process = start(endpoint, file, out, *options)
    while process.poll() is None and num_hanging[0] < 3:
        time.sleep(0.001)
    process.send_signal(kill)
    printed, complaints = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if kill is signal.SIGKILL else 130)
    if kill is signal.SIGINT:
        assert "goes on from here" in complaints and "Traceback" not in complaints
        assert numbers(printed)["prompts not asked yet"] == NUM_PROMPTS - len(read(out))
    hung.set()
    num_written = out.read_bytes().count(b"\n")
    num_asked = len(endpoint.requests)
    assert num_written >= (num_asked - 2 * 3) // 2  # three prompts, with two requests at most
    code, _, complaints = run(endpoint, file, out, *options)
    assert code == 0 and (not num_written or f"{num_written} of {NUM_PROMPTS}" in complaints)
    assert len(endpoint.requests) - num_asked == 2 * (NUM_PROMPTS - num_written)
    rows = read(out)
    assert sorted(row["id"] for row in rows) == list(range(NUM_PROMPTS))
    for row in rows:
        assert row["candidates"] == [f"answer {seed} to {row['prompt']}" for seed in (0, 1)]


def test_prompts_that_fail_are_told_and_asked_again_and_no_others(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    file = questions(tmp_path, "good", "refused", "broken", "half", "no text", "cut")
    out = tmp_path / "out.jsonl"

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        is_first = body["seed"] == 0
        return {
            "refused": (400, {"error": {"message": "too long \x1b[31m"}}),
            "broken": (500, {}),
            "half": (500, {}) if is_first else completion(f"half {body['seed']}"),
            "no text": completion(None),
            "cut": completion("cut", finish="length"),
        }.get(asked(body), completion(f"good {body['seed']}"))

    endpoint.answer = answer
    options = ("-n", "3", "--seed", "0", "--max-retries", "0")
    code, printed, complaints = run(endpoint, file, out, *options)
    assert code == 3  # "broken" might have been answered later
    assert {row["prompt"]: len(row["candidates"]) for row in read(out)} == {"good": 3, "half": 2}
    assert numbers(printed) == {
        "prompts with candidates": 2,
        "prompts without REFUSED": 1,
        "prompts without UNAVAILABLE": 1,
        "prompts without FAULT": 1,
        "prompts without TOO_FEW_CANDIDATES": 1,
        "answers left out REFUSED": 1,
        "answers left out UNAVAILABLE": 4,
        "answers left out FAULT": 3,
        "answers left out TRUNCATED": 3,
    }
    assert "line 2: REFUSED" in complaints and "too long" in complaints
    assert "\x1b" not in complaints
    first = len(endpoint.requests)
    endpoint.answer = lambda body: completion(f"{asked(body)} {body['seed']}")
    code, printed, _ = run(endpoint, file, out, *options)
    assert code == 0 and numbers(printed) == {"prompts with candidates": 6}
    assert {asked(body) for body in endpoint.requests[first:]} == {
        "refused",
        "broken",
        "no text",
        "cut",
    }
    assert len({row["id"] for row in read(out)}) == 6


@pytest.mark.parametrize(
    ("answers", "kept", "left_out"),
    [
        (["a", Finish.LENGTH, "b"], ("a", "b"), {Reason.TRUNCATED: 1}),
        (["a", Finish.UNKNOWN, "a"], ("a", "text", "a"), {}),
        (["a", Finish.FILTERED, "b"], ("a", "b"), {Reason.FILTERED: 1}),
        (["a", "\ud800", "b"], ("a", "b"), {Reason.NOT_UNICODE: 1}),
        (["a", PolicyFault("x"), "b"], ("a", "b"), {Reason.FAULT: 1}),
        (["a", "b", PolicyRefused("x")], None, {Reason.REFUSED: 1}),
        (["a", Finish.FILTERED, Finish.LENGTH], None, {Reason.FILTERED: 1, Reason.TRUNCATED: 1}),
    ],
)
def test_only_whole_answers_are_candidates_in_the_order_of_asking(
    tmp_path: Path, answers: list[Any], kept: tuple[str, ...] | None, left_out: dict[Reason, int]
) -> None:
    out = tmp_path / "out.jsonl"
    (outcome,) = generate(Script({"q": answers}), questions(tmp_path, "q"), out)
    assert outcome.left_out == left_out
    if kept is None:
        assert isinstance(outcome, NotGenerated) and not out.read_bytes()
        expected = Reason.REFUSED if Reason.REFUSED in left_out else Reason.TOO_FEW_CANDIDATES
        assert outcome.reason is expected
    else:
        assert isinstance(outcome, Generated) and outcome.candidates == kept
        assert [row["candidates"] for row in read(out)] == [list(kept)]
        PromptFile.check(out)  # mine reads it


def test_truncated_answers_are_kept_if_allowed_and_filtered_ones_never(tmp_path: Path) -> None:
    answers: dict[str, list[Any]] = {"q": ["a", Finish.LENGTH, Finish.FILTERED]}
    wanted = Wanted(3, allow_truncated=True)
    (outcome,) = generate(Script(answers), questions(tmp_path, "q"), tmp_path / "out.jsonl", wanted)
    assert isinstance(outcome, Generated) and outcome.candidates == ("a", "text")
    assert outcome.left_out == {Reason.FILTERED: 1}


PROMPTS = ["one", "zwei — ü", "three", "four\nlines", "five"]


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(1, 400), junk=st.sampled_from([b"", b'{"id": 3', b"\0\0\0"]))
def test_wherever_the_file_is_cut_it_is_made_good_with_nothing_twice(cut: int, junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, out = questions(Path(folder), *PROMPTS), Path(folder) / "out.jsonl"
        generate(Script({}), file, out)
        whole = out.read_bytes()
        out.write_bytes(whole[:-cut] + junk)
        num_left = len(PROMPTS) - whole[:-cut].count(b"\n")
        policy = Script({})
        generate(policy, file, out)
        assert len(policy.asked) == num_left
        assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_deleted_line_is_asked_again(tmp_path: Path) -> None:
    file, out = questions(tmp_path, *PROMPTS), tmp_path / "out.jsonl"
    generate(Script({}), file, out)
    lines = out.read_bytes().splitlines(keepends=True)
    deleted = read(out)[1]["prompt"]
    out.write_bytes(b"".join(lines[:1] + lines[2:]))
    policy = Script({})
    generate(policy, file, out)
    assert policy.asked == [deleted]


def test_what_another_made_is_not_gone_on_with(tmp_path: Path) -> None:
    file, out = questions(tmp_path, *PROMPTS), tmp_path / "out.jsonl"
    out.write_text("precious\n")
    with pytest.raises(CannotResume, match="not made by this command"):
        generate(Script({}), file, out)
    assert out.read_text() == "precious\n"
    generate(Script({}), file, out, restart=True)
    with out.open("a") as more:
        more.write('{"id": "stranger", "prompt": "?", "candidates": ["a", "b"]}\n')
    before = out.read_bytes()
    with pytest.raises(CannotResume, match="line 6, is not of this input"):
        generate(Script({}), file, out)
    assert out.read_bytes() == before
    file = questions(tmp_path, "other")
    with pytest.raises(CannotResume, match="another one"):
        generate(Script({}), file, out, accept_changes=True)


def test_one_process_at_a_time_and_the_same_arguments_unless_changes_are_accepted(
    tmp_path: Path,
) -> None:
    source = PromptFile.check(questions(tmp_path, *PROMPTS), with_candidates=False)
    out = tmp_path / "out.jsonl"
    first, *others = source.prompts()
    with CandidatesFile.open(out, source, {"temperature": 1.0}) as output:
        with pytest.raises(CannotResume, match="another process"):
            CandidatesFile.open(out, source, {"temperature": 1.0})
        output.write(first, ["a", "b"])
    with pytest.raises(CannotResume, match="other than in the run before: temperature"):
        CandidatesFile.open(out, source, {"temperature": 2.0})
    changed = CandidatesFile.open(out, source, {"temperature": 2.0}, accept_changes=True)
    with changed as output:
        assert output.has(first) and not any(output.has(one) for one in others)
    recorded = out.with_name("out.jsonl.arguments").read_text()
    begins = [int(place) for place in re.findall(r'"begins_at_byte": (\d+)', recorded)]
    assert begins == [0, out.stat().st_size]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"prompt": "a", "id": 1}, {"prompt": "b"}], 'line 2: "id" is that of line 1 too'),
        ([{"prompt": "a", "candidates": ["x"]}], "are there already"),
        ([{"prompt": "a", "image": "x.png"}], "not known"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_asked(
    tmp_path: Path, rows: list[dict[str, Any]], complaint: str
) -> None:
    policy = Script({})
    with pytest.raises(BadRecord, match=complaint):
        generate(policy, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    assert not policy.asked


def test_what_is_no_picture_is_not_sent_and_others_go_on(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_text("token")
    (tmp_path / "torn.png").write_bytes(SEVEN.read_bytes()[:20])
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "images": ["secret.png"]},
        {"prompt": "b", "images": ["torn.png"]},
        {"prompt": "c"},
    ]
    policy = OpenAIPolicy("policy", base_url=endpoint.url, api_key="key", max_in_flight=1)
    file, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    reasons = {
        outcome.prompt.prompt: getattr(outcome, "reason", None)
        for outcome in generate(policy, file, out)
    }
    assert reasons == {"a": Reason.NOT_AN_IMAGE, "b": Reason.UNREADABLE_IMAGE, "c": None}
    assert {asked(body) for body in endpoint.requests} == {"c"}


def test_a_policy_that_stays_away_or_refuses_the_key_ends_the_run(tmp_path: Path) -> None:
    prompts = [str(i) for i in range(50)]
    file, out = questions(tmp_path, *prompts), tmp_path / "out.jsonl"
    away: list[Any] = [PolicyUnavailable("away")]
    outcomes = generate(Script({one: away for one in prompts}), file, out)
    assert [getattr(one, "reason", None) for one in outcomes] == [Reason.UNAVAILABLE] * 8
    passing = {one: away for one in prompts if int(one) % 8}
    one_by_one = Wanted(3, prompts_in_flight=1)
    assert len(generate(Script(passing), file, out, one_by_one)) == 50
    refused: list[Any] = [PolicyRefused("no such key", status=401)]
    outcomes = generate(Script({one: refused for one in prompts if int(one) % 8}), file, out)
    assert len(outcomes) == 1


def test_so_many_requests_are_made_at_a_time_and_no_more_is_read(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    together = threading.Barrier(5)

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        together.wait(60)  # which passes only if five are there
        return completion("a", "b")

    endpoint.answer = answer
    file, out = questions(tmp_path, *(str(i) for i in range(20))), tmp_path / "out.jsonl"
    policy = OpenAIPolicy(
        "policy", base_url=endpoint.url, api_key="key", max_in_flight=1, choices_per_request=2
    )
    outcomes = generate(policy, file, out, Wanted(2, prompts_in_flight=5))
    assert len(outcomes) == len(endpoint.requests) == 20 and endpoint.max_in_flight == 5
    assert Counter(map(type, outcomes)) == {Generated: 20}


def test_the_command_refuses_what_cannot_work(endpoint: Endpoint, tmp_path: Path) -> None:
    file, out = questions(tmp_path, *PROMPTS), tmp_path / "out.jsonl"
    endpoint.answer = lambda body: (401, {"error": {"message": "no such key"}})
    code, printed, complaints = run(endpoint, file, out, "-n", "2", "--in-flight", "1")
    assert code == 2 and len(endpoint.requests) == 1 and "no such key" in complaints
    assert numbers(printed)["prompts not asked yet"] == len(PROMPTS) - 1
    assert run(endpoint, file, file, "-n", "2")[0] == 2
    endpoint.url = "127.0.0.1:80"
    code, _, complaints = run(endpoint, file, out, "-n", "2")
    assert code == 2 and "must begin with http" in complaints
    endpoint.url = "http://me:hidden@127.0.0.1:1/v1"
    code, _, complaints = run(endpoint, file, out, "-n", "2", "--max-retries", "0")
    assert code == 3 and "hidden" not in complaints
    assert "hidden" not in out.with_name("out.jsonl.arguments").read_text()


def test_without_the_extra_the_command_says_what_it_needs(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['openai'] = None;"
        "from adjudge_reranker.cli import main; sys.argv[0] = 'adjudge'; main()"
    )
    file = questions(tmp_path, "q")
    command = [sys.executable, "-c", program, "generate", str(file), "--out", str(tmp_path / "o")]
    command += ["--policy-url", "http://127.0.0.1:1", "--policy-model", "policy", "-n", "2"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 2 and "adjudge[openai]" in process.stderr
    assert not (tmp_path / "o").exists()
