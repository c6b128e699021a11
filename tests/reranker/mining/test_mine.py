"""`adjudge mine`: what it reads, asks, writes and refuses."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import RetryPolicy, RewardClient
from adjudge_reranker.evaluation.records import BadRecord
from adjudge_reranker.mining import (
    CannotResume,
    CriticChanged,
    Failed,
    Journal,
    Mined,
    Options,
    Outcome,
    Pairing,
    Plan,
    PromptFile,
    Skipped,
    mine,
)
from tests.conftest import SEVEN
from tests.reranker import scripted
from tests.reranker.mining.mining import ROW, journal, read, run, write
from tests.reranker.scripted import ScriptedService

Step = Callable[[Any, grpc.ServicerContext], Any]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def described(request: Any, context: Any, *, fingerprint: str = "f", epoch: int = 0) -> Any:
    direct = pb.READOUT_DIRECT
    templates = [
        pb.Template(name="one", hash="1", kind=pb.TEMPLATE_KIND_POINTWISE, readouts=[direct]),
        pb.Template(name="two", hash="2", kind=pb.TEMPLATE_KIND_PAIRWISE, readouts=[direct]),
    ]
    model = pb.Model(name="told", fingerprint=fingerprint, weights_epoch=epoch, templates=templates)
    return pb.GetModelResponse(model=model)


def scores(fingerprint: str = "f", name: str = "told") -> Step:
    """The reward of a candidate is the number that it is; of "item REASON" that failure."""

    def step(request: Any, context: Any) -> Any:
        response = pb.ScoreCandidatesResponse(
            provenance=pb.Provenance(model=name, model_fingerprint=fingerprint)
        )
        for candidate in request.candidates:
            text = candidate.parts[0].text
            outcome = response.outcomes.add()
            if text.startswith("item "):
                reason = text.removeprefix("item ")
                refusal = scripted.status(grpc.StatusCode.INVALID_ARGUMENT, reason)
                outcome.error.CopyFrom(refusal)
            else:
                outcome.reward.reward = float(text)
        return response

    return step


def comparisons(margin: float, bias: float, **fields: Any) -> Step:
    def step(request: Any, context: Any) -> Any:
        one = pb.Comparison(margin=margin, position_bias=bias, **{"preference": 0.9} | fields)
        return pb.CompareCandidatesResponse(
            outcomes=[pb.CompareOutcome(comparison=one) for _ in request.pairs],
            provenance=pb.Provenance(model="told", model_fingerprint="f"),
        )

    return step


def mined(
    script: ScriptedService,
    tmp_path: Path,
    *rows: dict[str, Any],
    options: Options = Options(),  # noqa: B008
    out: str = "out.jsonl",
    **how: Any,
) -> list[Outcome]:
    source = PromptFile.check(write(tmp_path / "in.jsonl", rows))
    with RewardClient(script.address, retry=RetryPolicy(0.0, 0.0), timeout=5.0) as client:
        plan = Plan.make(client.model(), options)
        with Journal.open(tmp_path / out, source, plan, **how) as kept:
            any_critic = how.get("accept_changes", False)
            return list(mine(client, source, plan, kept, any_critic=any_critic))


def asking(*candidates: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": "Why?", "candidates": list(candidates), **fields}


def test_pairs_are_written_in_trls_format_with_their_provenance(
    script: ScriptedService, tmp_path: Path
) -> None:
    script.plan(described, scores(), comparisons(2.0, -0.5))
    mined(script, tmp_path, asking("3", "9", "9 ", "5", id="x"), options=Options(verify=True))
    (row,) = read(tmp_path / "out.jsonl")
    digest = row["provenance"].pop("prompt_digest")
    assert len(digest) == 64
    assert row == {
        "prompt": "Why?",
        "chosen": "9",
        "rejected": "3",
        "chosen_reward": 9.0,
        "rejected_reward": 3.0,
        "margin": 6.0,
        "provenance": {
            "id": "x",
            "line": 1,
            "chosen_index": 1,
            "rejected_index": 0,
            "model": "told",
            "model_fingerprint": "f",
            "weights_epoch": 0,
            "template": "",
            "template_hash": "",
            "server_version": "",
            "readout": "direct",
            "comparison": {
                "template": "two",
                "template_hash": "2",
                "margin": 2.0,
                "preference": 0.9,
                "position_bias": -0.5,
            },
        },
    }
    (asked,) = [one for one in script.requests if isinstance(one, pb.ScoreCandidatesRequest)]
    assert len(asked.candidates) == 3  # what differs in whitespace only is asked about once


@pytest.mark.parametrize(
    ("margin", "bias", "fields", "confirms"),
    [
        (2.0, 1.0, {}, True),
        (2.0, -1.9, {}, True),
        (2.0, 2.5, {}, False),
        (2.0, -2.5, {}, False),
        (-2.0, 0.0, {"preference": 0.1}, False),
        (2.0, 0.0, {"within_noise": True}, False),
        (2.0, 0.0, {"first_probability": 0.4, "tie_probability": 0.5}, False),
    ],
)
def test_a_pair_is_confirmed_if_the_chosen_one_wins_in_both_orders(
    script: ScriptedService,
    tmp_path: Path,
    margin: float,
    bias: float,
    fields: dict[str, Any],
    confirms: bool,
) -> None:
    script.plan(described, scores(), comparisons(margin, bias, **fields))
    (outcome,) = mined(script, tmp_path, asking("3", "9"), options=Options(verify=True))
    assert isinstance(outcome, Mined if confirms else Skipped)
    assert len(read(tmp_path / "out.jsonl")) == confirms


def test_failed_candidates_are_in_no_pair_and_their_prompt_waits_if_they_may_recover(
    script: ScriptedService, tmp_path: Path
) -> None:
    rows = [
        asking("3", "item INPUT_TOO_LONG", "9"),
        asking("3", "item CRITIC_FAILURE", "9"),
        asking("3", "item OFF_FORMAT"),
    ]
    script.plan(described, *[scores()] * 3)
    first, second, third = mined(script, tmp_path, *rows)
    assert isinstance(first, Mined) and first.pairs[0].margin == 6.0
    assert [one.index for one in first.failed] == [1]
    assert isinstance(second, Failed) and second.reason == "CRITIC_FAILURE"
    assert isinstance(third, Failed) and third.reason == "OFF_FORMAT"


def test_a_failed_call_is_no_pair_and_does_not_end_the_run(
    script: ScriptedService, tmp_path: Path
) -> None:
    def fails_for_first(request: Any, context: Any) -> Any:
        fault = scripted.fail(grpc.StatusCode.INTERNAL, "CRITIC_FAILURE")
        is_first = request.prompt[0].parts[0].text == "first"
        return (fault if is_first else scores())(request, context)

    rows = [asking("1", "2", prompt="first"), asking("1", "2")]
    script.plan(described, fails_for_first, fails_for_first)
    failed, other = mined(script, tmp_path, *rows)
    assert isinstance(failed, Failed) and failed.reason == "CRITIC_FAILURE"
    assert isinstance(other, Mined)
    script.plan(described, scores())
    (again,) = mined(script, tmp_path, *rows)
    assert isinstance(again, Mined) and again.prompt.number == 0
    assert [row["provenance"]["line"] for row in read(tmp_path / "out.jsonl")] == [2, 1]


def test_other_options_another_critic_or_another_input_are_not_gone_on_with(
    script: ScriptedService, tmp_path: Path
) -> None:
    row = asking("1", "2")
    script.plan(described, scores())
    mined(script, tmp_path, row)
    kept = (tmp_path / "out.jsonl").read_bytes()
    script.plan(described)
    with pytest.raises(CannotResume, match="min_margin, pairing"):
        mined(script, tmp_path, row, options=Options(Pairing.ALL, min_margin=1.0))
    for name, changed in (("fingerprint", {"fingerprint": "g"}), ("epoch", {"epoch": 1})):
        script.plan(lambda r, c, changed=changed: described(r, c, **changed))
        with pytest.raises(CannotResume, match=name):
            mined(script, tmp_path, row)
    script.plan(described)
    with pytest.raises(CannotResume, match="input"):
        mined(script, tmp_path, row, row, accept_changes=True)
    assert (tmp_path / "out.jsonl").read_bytes() == kept
    script.plan(lambda r, c: described(r, c, epoch=1))
    assert mined(script, tmp_path, row, accept_changes=True) == []
    script.plan(described, scores(), scores())
    assert len(mined(script, tmp_path, row, row, restart=True)) == 2
    assert len(read(tmp_path / "out.jsonl")) == 2


def test_a_critic_that_changes_meanwhile_ends_the_run_and_its_answer_is_not_written(
    script: ScriptedService, tmp_path: Path
) -> None:
    script.plan(described, scores("g"))
    with pytest.raises(CriticChanged):
        mined(script, tmp_path, asking("1", "2"))
    wrong = scripted.fail(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_EPOCH")
    script.plan(described, wrong)
    with pytest.raises(CriticChanged):
        mined(script, tmp_path, asking("1", "2"))
    assert read(tmp_path / "out.jsonl") == [] and journal(tmp_path / "out.jsonl") == []


@pytest.mark.parametrize("accept_changes", [False, True])
def test_another_model_in_the_place_of_the_critic_ends_the_run(
    script: ScriptedService, tmp_path: Path, accept_changes: bool
) -> None:
    script.plan(described, scores(), *[scores("g", "another")] * 3)
    rows = [asking(str(number), "0") for number in range(1, 5)]
    with pytest.raises(CriticChanged):
        mined(script, tmp_path, *rows, accept_changes=accept_changes)


def test_two_processes_do_not_mine_into_one_file(script: ScriptedService, tmp_path: Path) -> None:
    script.plan(described, described)
    source = PromptFile.check(write(tmp_path / "in.jsonl", [asking("1", "2")]))
    with RewardClient(script.address) as client:
        plan = Plan.make(client.model(), Options())
    with (
        Journal.open(tmp_path / "out.jsonl", source, plan),
        pytest.raises(CannotResume, match="another process"),
    ):
        Journal.open(tmp_path / "out.jsonl", source, plan)


def test_memory_and_calls_in_flight_are_bounded(script: ScriptedService, tmp_path: Path) -> None:
    lock, flying, most = threading.Lock(), [0], [0]

    def counts(request: Any, context: Any) -> Any:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        time.sleep(0.005)  # or calls would be over before others begin
        answer = scores()(request, context)
        with lock:
            flying[0] -= 1
        return answer

    script.plan(described, *[counts] * 600)
    rows = [asking("1", "2", id=i) for i in range(600)]
    source = PromptFile.check(write(tmp_path / "in.jsonl", rows))
    read_so_far = [0]

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def prompts(self) -> Any:
            for prompt in source.prompts():
                read_so_far[0] += 1
                yield prompt

    with RewardClient(script.address) as client:
        plan = Plan.make(client.model(), Options())
        with Journal.open(tmp_path / "out.jsonl", source, plan) as kept:
            outcomes = mine(client, Watched(), plan, kept)  # type: ignore[arg-type]
            for number, _ in enumerate(outcomes):
                assert read_so_far[0] <= number + 257
    assert number == 599 and 1 < most[0] <= 8


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "Why?"}, '"candidates"'),
        (ROW | {"image": "x.png"}, '"image" is not known'),
        (ROW | {"images": ["no.png"]}, r'"images\[0\]" names no picture'),
        (ROW | {"images": ["../secret.png"]}, "leads out"),
        (ROW | {"prompt": [{"role": "human", "content": "x"}]}, "role"),
        (ROW | {"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "1 image parts"),
        (
            ROW | {"prompt": [{"role": "user", "content": [{"type": "image", "image": "/x"}]}]},
            "content",
        ),
        (ROW | {"candidates": [CHAT]}, "one message of the assistant"),
        (ROW | {"candidates": ["\ud800"]}, "surrogate"),
        (ROW | {"candidates": []}, "at least one"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_judged(
    tmp_path: Path, row: dict[str, Any], complaint: str
) -> None:
    file = write(tmp_path / "in.jsonl", [ROW, row])
    with pytest.raises(BadRecord, match=f"line 2: .*{complaint}"):
        PromptFile.check(file)


def test_the_command_counts_and_exits_as_the_others_do(address: str, tmp_path: Path) -> None:
    rows = [ROW, ROW | {"candidates": ["same", "same "]}, ROW | {"images": ["seven.png"]}]
    picture = tmp_path / "seven.png"
    picture.write_bytes(SEVEN.read_bytes())
    file, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    picture_of_none = ROW | {"images": ["secret.txt"]}
    (tmp_path / "secret.txt").write_text("token")
    write(file, [*rows, picture_of_none])
    code, printed, _ = run(address, file, out)
    assert code == 1 and "gave 2 pairs" in printed
    assert "TOO_FEW_CANDIDATES" in printed and "NOT_AN_IMAGE" in printed
    first, second = read(out)
    assert [one["images"] for one in (first, second)] == [[], [str(picture)]]
    assert first["prompt"] == [{"role": "user", "content": "Why?"}]
    assert first["chosen"][0]["role"] == "assistant"
    (tmp_path / "secret.txt").write_bytes(SEVEN.read_bytes())
    code, printed, complaints = run(address, file, out)
    assert code == 0 and "gave 3 pairs" in printed and "3 of 4 prompts" in complaints
    code, _, complaints = run(address, file, out, "--pairing", "all")
    assert code == 2 and "pairing" in complaints and "--accept-changes" in complaints
    assert run("127.0.0.1:1", file, out, "--timeout", "0.3")[0] == 3
