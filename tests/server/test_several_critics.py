"""Several critics in one server: each answers as it does alone, by its name, on a thread of its
own, and what befalls one is no other's affair."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server import vitals
from adjudge_server.serve import SERVICE, Server
from tests.conftest import SEVEN, Launch, stub
from tests.server.checkpoints import tiny_tokenizer, write_checkpoint, write_text_model
from tests.server.observing.scraping import Scraped
from tests.server.several import described, move, score, serve, values
from tests.server.test_ensembles import Held
from tests.server.test_serve import NOT_SERVING, SERVING, health
from tests.server.test_service import (
    call_failure,
    compare_request,
    comparisons,
    critique_request,
    refusal,
    score_request,
    turn,
    wait_until,
)

ROOT = Path(__file__).parent.parent.parent
CLOSE = 1e-3
"""Points, by which a real critic's reward may depend on its company."""
FILE = """
default = "digits"

[[critic]]
name = "one"
family = "fake"

[[critic]]
name = "two"
family = "fake"
max_input_tokens = 500

[[critic]]
name = "digits"

[[critic]]
name = "head"
model = "checkpoints/head"

[[ensemble]]
name = "both"
combine = "minimum"
member = [{ critic = "one" }, { critic = "two" }]
"""
PATIENCE = 120.0
QUESTION = "What does this image present?"
ANSWERS = ("A handwritten seven.", "A four.", "A red circle.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_text_model(folder / "checkpoints" / "head", scalar=True)
    return folder


@pytest.fixture(scope="module")
def server(launch: Launch, folder: Path) -> Server:
    return serve(launch, folder, FILE, metrics_listen="127.0.0.1:0", audit=folder / "audit")


@pytest.fixture(scope="module")
def service(server: Server) -> Iterator[RewardServiceStub]:
    with stub(server) as service:
        yield service


def picture() -> list[pb.Message]:
    return [turn(QUESTION, pb.Image(encoded=SEVEN.read_bytes()))]


# By name ------------------------------------------------------------------------------------------


def test_each_critic_answers_as_it_does_alone(
    service: RewardServiceStub,
    fake_server: Server,
    embedded_server: Server,
    launch: Launch,
    folder: Path,
) -> None:
    head = launch(model=folder / "checkpoints" / "head")
    in_words = [turn("Is seven a number?")]
    for name, alone, prompt in (
        ("one", fake_server, picture()),
        ("digits", embedded_server, picture()),
        ("head", head, in_words),
    ):
        with stub(alone) as other:
            wanted = values(score(other, "", *ANSWERS, prompt=prompt))
        assert values(score(service, name, *ANSWERS, prompt=prompt)) == pytest.approx(
            wanted, abs=CLOSE
        )


def test_comparisons_and_critiques_are_its_own_too(
    service: RewardServiceStub, fake_server: Server
) -> None:
    compare: dict[str, Any] = {"pairs": [(0, 1)]}
    criticise = critique_request("a", model="one")
    with stub(fake_server) as alone:
        assert comparisons(service, "a", "b", model="one", **compare) == comparisons(
            alone, "a", "b", **compare
        )
        events = [e for e in service.CritiqueCandidates(criticise) if not e.HasField("provenance")]
        criticise.model = ""
        own = [e for e in alone.CritiqueCandidates(criticise) if not e.HasField("provenance")]
        assert events == own


def test_who_names_none_asks_the_default(service: RewardServiceStub) -> None:
    assert score(service, "", "seven").provenance.model == "digits"
    response = service.GetModel(pb.GetModelRequest())
    assert response.model.name == "digits"
    assert response.served_models[0] == "digits"
    assert sorted(response.served_models) == ["both", "digits", "head", "one", "two"]


@pytest.mark.parametrize(
    "request_",
    [
        score_request("a", model="three"),
        compare_request("a", "b", model="three"),
        critique_request("a", model="three"),
        pb.GetModelRequest(model="three"),
    ],
    ids=["score", "compare", "critique", "model"],
)
def test_a_name_that_nobody_has_is_refused(service: RewardServiceStub, request_: Any) -> None:
    found = refusal(service, request_)
    assert (found.reason, found.metadata["model"]) == ("UNKNOWN_MODEL", "three")


def test_each_is_described_with_its_own_limits(service: RewardServiceStub) -> None:
    assert described(service, "one").limits.max_input_tokens == 32_768
    assert described(service, "two").limits.max_input_tokens == 500
    assert described(service, "head").family == "sequence_classification"
    assert described(service, "digits").family == "llava_onevision"


# Apart --------------------------------------------------------------------------------------------


def test_weights_move_for_one_and_nobody_else(launch: Launch, tmp_path: Path) -> None:
    source = '[[critic]]\nname = "one"\nfamily = "fake"\n[[critic]]\nname = "two"\nfamily = "fake"'
    server = serve(launch, tmp_path, source)
    with stub(server) as service:
        before = {name: values(score(service, name, *ANSWERS)) for name in ("one", "two")}
        moved = move(server, "two", tmp_path / "other")
        assert values(score(service, "one", *ANSWERS, expected_epoch=0)) == before["one"]
        after = score(service, "two", *ANSWERS, expected_epoch=1)
        assert values(after) != before["two"]
        assert after.provenance.model_fingerprint == moved.model_fingerprint
        assert move(server, "", tmp_path / "other").weights_epoch == 1, "the first is the default"
        assert described(service, "one").weights_epoch == 1
        with pytest.raises(grpc.RpcError) as caught:
            move(server, "three", tmp_path / "other")
        assert call_failure(caught.value).reason == "UNKNOWN_MODEL"


def test_while_one_hangs_health_says_who_and_the_others_answer(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "TICK_SECONDS", 0.02)
    source = """
    [[critic]]
    name = "hangs"
    family = "fake"
    watchdog_seconds = 0.3
    [[critic]]
    name = "goes on"
    family = "fake"
    [[critic]]
    name = "too"
    family = "fake"
    [[ensemble]]
    name = "with it"
    combine = "minimum"
    member = [{ critic = "hangs" }, { critic = "too" }]
    [[ensemble]]
    name = "without it"
    combine = "minimum"
    member = [{ critic = "goes on" }, { critic = "too" }]
    """
    server = serve(launch, tmp_path, source)
    names = ["hangs", "goes on", "too", "with it", "without it"]

    def told() -> dict[str, int]:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            services = {"": "", SERVICE: SERVICE, **{name: f"{SERVICE}/{name}" for name in names}}
            return {name: health(channel, service) for name, service in services.items()}

    well = {name: SERVING for name in ("", SERVICE, *names)}
    ill = {name: NOT_SERVING for name in ("", SERVICE, "hangs", "with it")}
    assert told() == well
    held = Held(monkeypatch, "hangs")
    with stub(server) as service:
        try:
            hanging = service.ScoreCandidates.future(score_request("a", model="hangs"))
            wait_until(lambda: told() == well | ill)
            (outcome,) = hanging.result(20).outcomes
            assert outcome.HasField("error")
            assert values(score(service, "goes on", "a"))
            assert values(score(service, "without it", "a"))
            found = refusal(service, score_request("a", model="with it"))
            assert (found.reason, found.metadata["member"]) == ("NOT_READY", "hangs")
        finally:
            held.release.set()
        wait_until(lambda: told() == well)
        assert values(score(service, "with it", "a"))


def test_critics_compute_at_the_same_time(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, "one")
    try:
        call = service.ScoreCandidates.future(score_request("a", model="one"))
        wait_until(lambda: held.waiting)
        assert values(score(service, "two", "a"))
        assert values(score(service, "digits", "a"))
    finally:
        held.release.set()
    assert values(call.result(20))


def test_numbers_do_not_depend_on_what_other_critics_are_at(launch: Launch, tmp_path: Path) -> None:
    """Three real critics of two families, two of them of one, that share a process."""
    write_text_model(tmp_path / "head", scalar=True)
    source = """
    [[critic]]
    name = "digits"
    [[critic]]
    name = "digits too"
    [[critic]]
    name = "head"
    model = "head"
    """
    prompts = {"digits": picture(), "digits too": picture(), "head": [turn("Is it a number?")]}
    groups = [[f"It is a {number}.", f"{number} lines."] for number in range(4)]
    with stub(serve(launch, tmp_path, source)) as service, ThreadPoolExecutor(6) as pool:

        def ask(case: tuple[str, int]) -> list[float]:
            model, number = case
            return values(score(service, model, *groups[number], prompt=prompts[model]))

        cases = [(model, number) for number in range(4) for model in prompts]
        alone = dict(zip(cases, map(ask, cases), strict=True))
        for case, found in zip(cases * 4, pool.map(ask, cases * 4), strict=True):
            assert found == pytest.approx(alone[case], abs=CLOSE)


# Seen ---------------------------------------------------------------------------------------------


def test_metrics_tell_the_models_apart(server: Server, service: RewardServiceStub) -> None:
    before = Scraped.of(server)
    score(service, "one", "a", "b")
    score(service, "both", "a", "b", "c")
    after = Scraped.of(server)

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert grown("adjudge_items_total", model="one", outcome="OK") == 2
    assert grown("adjudge_items_total", model="both", outcome="OK") == 3
    assert grown("adjudge_items_total", model="two") == 0, "nobody asked it by its name"
    assert grown("adjudge_reward_count", model="both", template="ensemble/both") == 3
    assert grown("adjudge_batch_items_sum", model="one") == 5
    assert grown("adjudge_batch_items_sum", model="two") == 3
    assert after("adjudge_serving") == 1
    assert after("adjudge_critic_serving") == 4
    assert after("adjudge_weights_epoch", model="one") == 0
    assert after("adjudge_model", family="sequence_classification") == 1


def test_the_audit_names_the_model_and_what_each_member_said(
    launch: Launch, tmp_path: Path
) -> None:
    source = FILE.replace('model = "checkpoints/head"', 'family = "fake"').replace(
        'name = "digits"', 'name = "digits"\nfamily = "fake"'
    )
    server = serve(launch, tmp_path, source, audit=tmp_path / "audit")
    with stub(server) as service:
        (one,) = values(score(service, "one", "a"))
        both = score(service, "both", "a")
        epoch_and_print = described(service, "both")

    def lines() -> list[dict[str, Any]]:
        files = (tmp_path / "audit").glob("*.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    wait_until(lambda: len(lines()) == 2)
    first, second = lines()
    assert (first["model"], first["items"][0]["reward"]) == ("one", one)
    assert "members" not in first["items"][0]
    assert (second["model"], second["template"]) == ("both", "ensemble/both")
    assert second["fingerprint"] == epoch_and_print.fingerprint
    (item,) = second["items"]
    reward = both.outcomes[0].reward
    assert (item["reward"], item["member_spread"]) == (reward.reward, reward.member_spread)
    assert item["members"] == [member.reward.reward for member in reward.members]
    assert item["sd"] is None and item["valid_mass"] is None


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("nobody's", "its pointwise ones are: embedded/pointwise"),
        ("embedded/pairwise", "its pointwise ones are:"),
        ("embedded/pointwise", "twice with embedded/pointwise"),
    ],
)
def test_a_members_template_that_its_critic_has_not_is_named_when_it_is_loaded(
    launch: Launch, tmp_path: Path, template: str, complaint: str
) -> None:
    source = f"""
    [[critic]]
    name = "a"
    family = "fake"
    [[critic]]
    name = "b"
    family = "fake"
    [[ensemble]]
    name = "e"
    combine = "minimum"
    member = [{{ critic = "b" }}, {{ critic = "b", template = "{template}" }}]
    """
    with pytest.raises(ValueError, match=f"--models .*: ensemble 'e': member 'b': .*{complaint}"):
        serve(launch, tmp_path, source)


def test_a_name_with_a_slash_is_one_like_any_other(launch: Launch, tmp_path: Path) -> None:
    source = """
    [[critic]]
    name = "org/judge"
    family = "fake"
    [[critic]]
    name = "b"
    family = "fake"
    [[ensemble]]
    name = "org/both"
    combine = "minimum"
    member = [{ critic = "org/judge" }, { critic = "b" }]
    """
    server = serve(launch, tmp_path, source)
    with stub(server) as service, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for name in ("org/judge", "org/both"):
            assert health(channel, f"{SERVICE}/{name}") == SERVING
            assert described(service, name).name == name
            assert values(score(service, name, "A seven."))
        with pytest.raises(grpc.RpcError) as unknown:
            score(service, "judge", "A seven.")
    assert unknown.value.details() == (
        "no model 'judge' is served, but 'org/judge', 'b', 'org/both'"
    )


# Processes, and the manual ------------------------------------------------------------------------


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "adjudge_server", *flags]


def test_verify_takes_one_critic_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[[critic]]\nname = "a"\nfamily = "fake"', encoding="utf-8")
    ended = subprocess.run(
        command("verify", "--models", str(path)), capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 2
    assert "one critic is checked at a time" in ended.stderr


@contextmanager
def process(path: Path) -> Iterator[tuple[list[str], str]]:
    """A server in a process of its own: the names that it prints, and its address."""
    started = command("--listen", "127.0.0.1:0", "--models", str(path))
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = re.fullmatch(r"serving (.+) on (127\.0\.0\.1:\d+)\n", server.stdout.readline())
            assert ready
            yield ready[1].split(", "), ready[2]
        finally:
            server.kill()


def test_the_manuals_example_starts_where_its_checkpoints_are(tmp_path: Path) -> None:
    """They are tiny and random here, of the same families."""
    manual = (ROOT / "docs" / "critics.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", manual, re.DOTALL)
    assert example
    (tmp_path / "models.toml").write_text(textwrap.dedent(example[1]), encoding="utf-8")
    checkpoints = tmp_path / "checkpoints"
    write_checkpoint(checkpoints / "llava-critic-7b", tiny_tokenizer(), grids=[[56, 112]])
    shutil.copytree(checkpoints / "llava-critic-7b", checkpoints / "llava-critic-seed-2")
    write_text_model(checkpoints / "safety-head", scalar=True)
    with process(tmp_path / "models.toml") as (names, address):
        assert names == ["judge", "again", "safety", "cautious", "judge-and-safe"]
        with grpc.insecure_channel(address) as channel:
            service = RewardServiceStub(channel)
            assert described(service).name == "judge"
            (template,) = described(service, "cautious").templates
            assert (template.min_reward, template.max_reward) == (0.0, 100.0)
            response = score(service, "judge-and-safe", "A seven.", prompt=picture())
            assert [member.model for member in response.provenance.members] == ["judge", "safety"]
            (outcome,) = response.outcomes
            assert outcome.WhichOneof("outcome") in ("reward", "error")


def test_a_mistake_ends_the_process_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[[critic]]\nname = "a"\nmodel = "./nowhere"', encoding="utf-8")
    ended = subprocess.run(
        command("--listen", "127.0.0.1:0", "--models", str(path)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 1
    assert f"--models {path}: critic 'a': " in ended.stderr
    assert "Traceback" not in ended.stderr
