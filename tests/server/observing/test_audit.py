"""The audit of real servers: what it says, what it survives, and what it costs them."""

import errno
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge.v1 import admin_pb2, admin_pb2_grpc
from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server.config import Config
from adjudge_server.observing import audit_writer
from adjudge_server.observing.audit_files import AuditFiles
from adjudge_server.observing.audit_reading import Record, check, main, read_audit
from adjudge_server.observing.audit_writer import AuditWriter
from adjudge_server.observing.digests import item_digest, prompt_digest, text_digest
from adjudge_server.serve import Server
from tests.conftest import running, stub
from tests.server.observing.scraping import Scraped
from tests.server.test_serve import process
from tests.server.test_service import (
    candidate,
    compare_request,
    critique_request,
    encoded,
    noise,
    raw,
    refusal,
    score_request,
    turn,
)

QUESTION = [("user", "What does this image present?")]


def config(directory: Path, **others: Any) -> Config:
    return Config(listen="127.0.0.1:0", critic="fake", audit=directory, **others)


def records(directory: Path) -> list[Record]:
    return [record for path in sorted(directory.iterdir()) for record in read_audit(path)]


def test_a_reward_is_found_again_by_whoever_has_the_inputs(tmp_path: Path) -> None:
    file, pixels = encoded(noise(8, 8)), raw(noise(4, 3))
    asked = "Describe both: \u2028 \U0001f600"
    with running(config(tmp_path)) as server, stub(server) as service:
        response = service.ScoreCandidates(
            score_request("a", "b\n", prompt=[turn(asked, file, pixels)])
        )
    (record,) = records(tmp_path)
    images = [
        hashlib.sha256(file.encoded).digest(),
        hashlib.sha256(b"RGB 4 3\n" + pixels.raw.data).digest(),
    ]
    prompt = prompt_digest([("user", asked)], images)
    assert record["prompt"] == prompt
    for item, text, outcome in zip(record["items"], ("a", "b\n"), response.outcomes, strict=True):
        assert item["item"] == item_digest(prompt, [text])
        assert item["reward"] == outcome.reward.reward
        assert item["mode"] == outcome.reward.mode
        assert item["valid_mass"] == outcome.reward.valid_mass
    provenance = response.provenance
    assert record["fingerprint"] == provenance.model_fingerprint
    assert record["template_hash"] == provenance.template_hash
    assert record["epoch"] == provenance.weights_epoch
    assert record["readout"] == "direct" and record["orders"] is None


def test_the_canonical_form_is_what_the_documentation_says() -> None:
    form = (
        '{"images":["' + "01" * 32 + '"],"messages":[["user","caf\\u00e9"]],'
        '"reference":null,"rubric":"r","v":1}'
    )
    prompt = hashlib.sha256(form.encode()).hexdigest()
    assert prompt_digest([("user", "café")], [b"\1" * 32], rubric="r") == prompt
    item = '{"candidates":["a","b"],"prompt":"' + prompt + '","v":1}'
    assert item_digest(prompt, ["a", "b"]) == hashlib.sha256(item.encode()).hexdigest()


def test_a_picture_that_was_named_has_the_digest_it_was_named_by(tmp_path: Path) -> None:
    file = encoded(noise(8, 8))
    named = pb.Image(wire_digest=hashlib.sha256(file.encoded).digest())
    with running(config(tmp_path)) as server, stub(server) as service:
        for image in (file, named):
            service.ScoreCandidates(score_request("a", prompt=[turn("?", image)]))
    first, second = records(tmp_path)
    assert first["prompt"] == second["prompt"] and first["items"] == second["items"]


def test_pairs_critiques_and_failures_are_recorded(tmp_path: Path) -> None:
    with running(config(tmp_path, max_input_tokens=2000)) as server, stub(server) as service:
        compared = service.CompareCandidates(compare_request("a", "b", pairs=[(1, 0), (0, 7)]))
        service.ScoreCandidates(score_request("a", "word " * 5000))
        events = list(service.CritiqueCandidates(critique_request("a")))
        refusal(service, score_request("a", template="none"))
        picture = pb.Candidate(parts=[pb.Part(image=encoded(noise(4, 4)))])
        request = score_request()
        request.candidates.extend([picture, candidate("a")])
        service.ScoreCandidates(request)
    pairs, scores, critique, mixed = records(tmp_path)
    prompt = prompt_digest(QUESTION)
    comparison = compared.outcomes[0].comparison
    assert pairs["orders"] == 2
    assert pairs["items"][0]["item"] == item_digest(prompt, ["b", "a"])
    assert pairs["items"][0]["margin"] == comparison.margin
    assert pairs["items"][0]["position_bias"] == comparison.position_bias
    assert pairs["items"][1] == {"item": None, "failure": "INVALID_REQUEST"}
    assert scores["items"][1]["failure"] == "INPUT_TOO_LONG"
    assert scores["items"][1]["item"] == item_digest(prompt, ["word " * 5000])
    assert critique["readout"] == "after-critique"
    reward = next(event.reward for event in events if event.HasField("reward"))
    assert critique["items"][0]["reward"] == reward.reward
    verdict = next(i for i, event in enumerate(events) if event.HasField("reward"))
    written = "".join(event.text for event in events[:verdict])
    assert critique["items"][0]["critique"] == text_digest(written)
    assert mixed["items"][0] == {"item": None, "failure": "UNSUPPORTED_CONTENT"}
    assert mixed["items"][1]["item"] == item_digest(prompt, ["a"])


def test_no_text_is_in_the_audit(tmp_path: Path) -> None:
    with running(config(tmp_path)) as server, stub(server) as service:
        service.ScoreCandidates(score_request("secret", prompt=[turn("secret")]))
        list(service.CritiqueCandidates(critique_request("secret")))
    assert len(records(tmp_path)) == 2
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes() and b"fake and looked" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_each_record_says_which_weights_gave_it(tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "next"
    weights.mkdir(parents=True)
    settings = config(tmp_path / "audit", enable_admin=True, weights_dir=(tmp_path / "weights",))
    with running(settings) as server, stub(server) as service:
        before = service.ScoreCandidates(score_request("a"))
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            admin.LoadWeights(admin_pb2.LoadWeightsRequest(path=str(weights)))
        after = service.ScoreCandidates(score_request("a"))
    old, new = records(tmp_path / "audit")
    for record, response in ((old, before), (new, after)):
        assert record["epoch"] == response.provenance.weights_epoch
        assert record["fingerprint"] == response.provenance.model_fingerprint
        assert record["items"][0]["reward"] == response.outcomes[0].reward.reward
    assert (old["epoch"], new["epoch"]) == (0, 1)
    assert old["items"][0]["item"] == new["items"][0]["item"]


def test_requests_at_once_are_whole_lines_over_several_files(tmp_path: Path) -> None:
    with running(config(tmp_path, max_audit_file_bytes=4000)) as server, stub(server) as service:

        def ask(number: int) -> float:
            response = service.ScoreCandidates(score_request(f"text {number}"))
            return response.outcomes[0].reward.reward

        with ThreadPoolExecutor(8) as threads:
            rewards = list(threads.map(ask, range(60)))
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 3
    assert all(path.stat().st_size <= 4000 for path in paths)
    found = records(tmp_path)
    assert sorted(record["number"] for record in found) == list(range(60))
    prompt = prompt_digest(QUESTION)
    by_item = {record["items"][0]["item"]: record["items"][0]["reward"] for record in found}
    expected = {item_digest(prompt, [f"text {i}"]): reward for i, reward in enumerate(rewards)}
    assert by_item == expected
    assert main([str(path) for path in paths]) == 0


def test_what_a_killed_server_wrote_can_be_read(tmp_path: Path) -> None:
    """A caller may know of rewards whose lines were not written: milliseconds' worth of them."""
    rewards = []
    with process("--audit", str(tmp_path)) as (server, address):
        with grpc.insecure_channel(address) as channel:
            service = RewardServiceStub(channel)
            for number in range(50):
                response = service.ScoreCandidates(score_request(f"text {number}"))
                rewards.append(response.outcomes[0].reward.reward)
        threading.Event().wait(0.5)
        server.kill()
        server.wait()
        with process("--audit", str(tmp_path)) as (_, address):
            with grpc.insecure_channel(address) as channel:
                RewardServiceStub(channel).ScoreCandidates(score_request("again"))
            threading.Event().wait(0.5)
    first, second = sorted(tmp_path.iterdir())
    assert [r["items"][0]["reward"] for r in read_audit(first)] == rewards
    assert len(list(read_audit(second))) == 1


@given(cut=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_only_a_torn_last_line_is_forgiven(tmp_path_factory: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "audit.jsonl"
    line = json.dumps(sample(0)).encode() + b"\n"
    path.write_bytes(line + line[: min(cut, len(line) - 1)])
    assert len(list(read_audit(path))) == 1
    path.write_bytes(line[: min(cut, len(line) - 2)] + b"\n" + line)
    with pytest.raises(ValueError, match=f"{path.name}:1"):
        list(read_audit(path))


def sample(number: int) -> Record:
    texts = ("run", "time", "request_id", "method", "fingerprint", "template", "template_hash")
    items = [{"item": None, "reward": 1.0}]
    return {
        **dict.fromkeys(texts, "x"),
        "v": 1,
        "number": number,
        "epoch": 0,
        "prompt": None,
        "items": items,
    }


def test_records_that_are_missing_are_noticed(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(json.dumps(sample(number)) + "\n" for number in (0, 1, 4)))
    assert check([path]).lacking("x") == 2
    assert main([str(path)]) == 1
    assert "2 records missing" in capsys.readouterr().out
    path.write_text(json.dumps(sample(0) | {"items": [{"reward": float("nan")}]}) + "\n")
    assert main([str(path)]) == 2


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on half of each write fits, and then nothing: what a full disk does."""
    write = os.write

    def some(file: int, data: Any) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    monkeypatch.setattr("adjudge_server.observing.audit_files.os.write", some)


def test_a_full_disk_costs_records_and_no_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path, metrics_listen="127.0.0.1:0")
    with running(settings) as server, stub(server) as service:

        def ask() -> None:
            assert service.ScoreCandidates(score_request("a")).outcomes[0].HasField("reward")

        ask()
        wait_for(server, written=1)
        with monkeypatch.context() as patched:
            full_disk(patched)
            for _ in range(3):
                ask()
            wait_for(server, written=1, lost=3)
        ask()
        wait_for(server, written=2, lost=3)
    assert [record["number"] for record in records(tmp_path)] == [0, 4]
    complaints = [r for r in caplog.records if "audit cannot be written" in r.message]
    assert len(complaints) == 1


def wait_for(server: Server, written: int, lost: int = 0) -> None:
    for _ in range(400):
        seen = Scraped.of(server)
        found = tuple(seen("adjudge_audit_records_total", result=r) for r in ("written", "lost"))
        if found == (written, lost):
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"{found} records written and lost")


def test_a_disk_that_stalls_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, write = threading.Event(), os.write

    def waiting(file: int, data: Any) -> int:
        stalled.wait(30)
        return write(file, data)

    monkeypatch.setattr("adjudge_server.observing.audit_files.os.write", waiting)
    monkeypatch.setattr(audit_writer, "MAX_BLOCK", 1)
    writer = AuditWriter(tmp_path, 1 << 20, max_waiting_bytes=1000)
    for number in range(30):
        writer.append(f"{number}".encode, 100)
    assert writer.num_lost >= 19
    stalled.set()
    writer.close()
    assert writer.num_written + writer.num_lost == 30
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().split() == [f"{i}".encode() for i in range(writer.num_written)]


def test_lines_that_fit_nowhere_leave_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = AuditFiles(tmp_path, 1 << 20)
    files.append([b"a" * 50])
    with monkeypatch.context() as patched:
        full_disk(patched)
        with pytest.raises(OSError):
            files.append([b"b" * 100, b"c" * 100])
        patched.setattr("adjudge_server.observing.audit_files.os.ftruncate", full)
        with pytest.raises(OSError):
            files.append([b"d" * 100])
    files.append([b"e" * 50])
    files.close()
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes().startswith(b"a" * 50 + b"\n" + b"d")  # torn, and the last
    assert second.read_bytes() == b"e" * 50 + b"\n"


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_directory_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match="--audit"), running(config(blocked)):
        pass


def test_a_stopped_server_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with running(config(tmp_path, metrics_listen="127.0.0.1:0")) as server:
        assert any(thread.name == "audit" for thread in set(threading.enumerate()) - before)
        Scraped.of(server)
    left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not [
        thread for thread in left if thread.name == "audit" or "serve_forever" in str(thread)
    ]


def test_what_was_written_waits_no_more(tmp_path: Path) -> None:
    writer = AuditWriter(tmp_path, 1 << 20, max_waiting_bytes=100)
    for number in range(20):
        writer.append(b"line".strip, 60)
        for _ in range(400):
            if writer.num_written > number:
                break
            threading.Event().wait(0.02)
    writer.close()
    assert (writer.num_written, writer.num_lost) == (20, 0)
