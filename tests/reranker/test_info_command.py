"""`adjudge info`, and the tables of rewards, of critics and of ensembles."""

from dataclasses import fields
from pathlib import Path

import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import Limits, RewardClient
from tests.conftest import Launch
from tests.reranker.scripted import ScriptedService, answer
from tests.reranker.test_cli import invoke, records

MODELS = """
[[critic]]
name = "judge"
family = "fake"

[[critic]]
name = "again"
family = "fake"
template_set = "llava-critic"

[[ensemble]]
name = "penalised"
combine = "spread-penalised"
penalty = 0.25
spread = "variance"
member = [
  { critic = "judge", weight = 3.0 },
  { critic = "again", scale = -2.0, offset = 7.0, pictures = "leave out" },
]

[[ensemble]]
name = "minimum"
combine = "minimum"
member = [{ critic = "judge" }, { critic = "again" }]

[[ensemble]]
name = "twice"
combine = "weighted"
member = [
  { critic = "again" },
  { critic = "again", template = "llava-critic/pointwise-card" },
]
"""
ENSEMBLES = ["penalised", "minimum"]


@pytest.fixture(scope="module")
def several(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    path.write_text(MODELS, "utf-8")
    return f"127.0.0.1:{launch(models=path).port}"


def info(address: str, *arguments: str | Path) -> str:
    result = invoke(address, "info", "--format", "table", *arguments)
    assert result.exit_code == 0
    return result.stdout


def test_info_describes_the_model(address: str) -> None:
    (record,) = records(invoke(address, "info"))
    assert record["name"] == "fake" and record["templates"] and record["limits"]
    assert "{candidate}" in record["templates"][0]["text"]
    assert record["ensemble"] is None
    table = info(address)
    assert "fake" in table and record["templates"][0]["name"] in table
    assert "prefers right to wrong" in table


def test_the_table_has_every_limit_that_the_server_tells(address: str) -> None:
    table = info(address)
    with RewardClient(address) as client:
        limits = client.model().limits
    told = [field.name for field in fields(Limits) if getattr(limits, field.name)]
    assert "max_message_bytes" in told and len(told) > 12
    rows = {line.split("│")[1].strip(): line for line in table.splitlines() if line.count("│") == 3}
    for name in told:
        value = getattr(limits, name)
        assert f"{value:,}" in rows[name] if isinstance(value, int) else name in rows


@pytest.mark.parametrize(
    ("noise", "shown"), [(6.1e-05, "6.1e-05 nats"), (0.0123, "0.012 nats"), (0.0, "0 nats")]
)
def test_a_small_noise_floor_is_not_rounded_away(
    script: ScriptedService, noise: float, shown: str
) -> None:
    model = pb.Model(name="critic", noise_floor=noise)
    script.plan(answer(pb.GetModelResponse(model=model)))
    assert shown in info(script.address)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_nothing_is_said_of_an_ensemble_that_only_critics_have(several: str, name: str) -> None:
    table = info(several, "--model", name)
    for row in ("revision", "runs on", "noise floor", "prefers", "answers", "convert_rgb"):
        assert row not in table
    assert "judge" in table and "again" in table
    assert f"ensemble/{name} v1" in table


def test_the_table_tells_how_an_ensembles_reward_is_made(several: str) -> None:
    table = info(several, "--model", "penalised")
    assert "spread-penalised" in table and "0.25 x their variance" in table
    judge, again = (
        next(line for line in table.splitlines() if line.startswith(f"│ {name} "))
        for name in ("judge", "again")
    )
    assert [cell.strip() for cell in judge.split("│")[3:-1]] == ["3", "1 x reward +0", "shown"]
    assert [cell.strip() for cell in again.split("│")[3:-1]] == ["1", "-2 x reward +7", "left out"]
    assert "the lowest" in info(several, "--model", "minimum")


def test_json_has_an_ensembles_definition_and_the_text_that_is_hashed(several: str) -> None:
    (record,) = records(invoke(several, "info", "--model", "penalised"))
    ensemble = record["ensemble"]
    assert (ensemble["combination"], ensemble["penalty"], ensemble["spread"]) == (
        "spread-penalised",
        0.25,
        "variance",
    )
    assert [member["weight"] for member in ensemble["members"]] == [3.0, 1.0]
    assert [member["omits_pictures"] for member in ensemble["members"]] == [False, True]
    assert '"penalty": 0.25' in record["templates"][0]["text"]
    (lowest,) = records(invoke(several, "info", "--model", "minimum"))
    assert lowest["ensemble"]["penalty"] is None
    assert [member["weight"] for member in lowest["ensemble"]["members"]] == [None, None]


def shown(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


@pytest.mark.parametrize("command", ["score", "rank"])
@pytest.mark.parametrize("name", [*ENSEMBLES, "twice"])
def test_tables_show_what_each_member_said_and_how_far_they_are_apart(
    several: str, command: str, name: str
) -> None:
    arguments = ["--model", name, "--prompt", "Why?", "so", "word " * 40_000]
    table = invoke(several, command, "--format", "table", *arguments).stdout
    (record,) = records(invoke(several, command, *arguments))
    outcomes = record["outcomes"] if command == "score" else record["ranking"]
    judged = next(outcome for outcome in outcomes if "error" not in outcome)
    head = next(line for line in table.splitlines() if "reward" in line)
    assert "spread" in head
    assert not any(column in head for column in ("sd", "mode", "margin", "preference"))
    row = next(line for line in table.splitlines() if " so " in line)
    assert f" {shown(judged['member_spread'])} " in row
    names = ["judge", "again"]
    if name == "twice":
        names = [f"again (llava-critic/{template})" for template in ("pointwise", "pointwise-card")]
    rewards = [shown(member["reward"]["reward"]) for member in judged["members"]]
    assert f" {names[0]} {rewards[0]}, {names[1]} {rewards[1]} " in table
    assert "INPUT_TOO_LONG" in table


def test_no_reward_in_json_has_an_empty_distribution(several: str) -> None:
    (record,) = records(invoke(several, "score", "--model", "minimum", "--prompt", "Why?", "so"))
    (outcome,) = record["outcomes"]
    assert "distribution" not in outcome
    assert len(outcome["members"]) == 2
    assert not any("distribution" in member["reward"] for member in outcome["members"])
