"""The reward function as OpenRLHF loads and calls it."""

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import RequestRefused, RetryPolicy, RewardClient
from adjudge_reranker.trainers.openrlhf import OpenRLHFReward, answer_of
from adjudge_server.serve import Server
from tests.conftest import SEVEN
from tests.reranker import scripted
from tests.reranker.scripted import ScriptedService

EXAMPLE = Path(__file__).parents[3] / "examples" / "openrlhf_reward.py"
PROMPT = "<|im_start|>user\nWhat this image presents?<|im_end|>\n<|im_start|>assistant\n"
ANSWER = "This is a handwritten number seven."
LABEL = {"prompt": "What this image presents?", "images": [str(SEVEN)]}


@given(answer=st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"])), cut=st.integers(0, 30))
def test_the_answer_is_found_behind_a_prompt_that_lost_its_beginning(answer: str, cut: int) -> None:
    assert answer_of(PROMPT[cut:] + answer + "<|im_end|>\n", PROMPT[cut:]) == answer


def test_the_answer_is_found_behind_a_prompt_that_changed() -> None:
    prompt = "<image>" + PROMPT
    repeated = "<image>" * 20 + PROMPT
    assert answer_of(repeated + PROMPT + "7<|im_end|>", prompt) == PROMPT + "7"
    with pytest.raises(ValueError, match="prompt"):
        answer_of("something else", prompt)


def test_a_picture_in_the_label_reaches_the_critic(embedded_server: Server) -> None:
    address = f"127.0.0.1:{embedded_server.port}"
    reward = pickle.loads(pickle.dumps(OpenRLHFReward(address)))
    result = reward([f"{PROMPT}{ANSWER}<|im_end|>"], [PROMPT], [json.dumps(LABEL)])
    with RewardClient(address) as client:
        expected = client.score([SEVEN, str(LABEL["prompt"])], [ANSWER]).rewards
    assert result["rewards"].tolist() == pytest.approx(expected, abs=1e-3)
    assert result["scores"].tolist() == result["rewards"].tolist()
    assert 0 < result["extra_logs"]["valid_mass"].item() <= 1


def test_a_plain_label_is_no_prompt(script: ScriptedService) -> None:
    result = OpenRLHFReward(script.address)(["Why?So."], ["Why?"], ["{7"])
    assert result["rewards"].tolist() == [3.0]
    assert script.requests[0].prompt[0].parts[0].text == "Why?"


def test_a_failure_is_raised_and_never_a_number(script: ScriptedService) -> None:
    script.plan(scripted.fail(grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG"))
    with pytest.raises(RequestRefused):
        OpenRLHFReward(script.address)(["Why?So."], ["Why?"], [None])
    script.plan(scripted.fail(grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG"))
    result = OpenRLHFReward(script.address, on_failure="nan")(["Why?So."], ["Why?"], [None])
    assert result["rewards"].isnan().all()
    with pytest.raises(ValueError, match="None"):
        OpenRLHFReward(script.address, on_failure="none")


def test_it_waits_for_its_server(script: ScriptedService) -> None:
    script.plan(scripted.fail(grpc.StatusCode.UNAVAILABLE, "NOT_READY"))
    client = RewardClient(script.address, retry=RetryPolicy(max_attempts=1))
    assert OpenRLHFReward(client)(["Why?So."], ["Why?"], [None])["rewards"].tolist() == [3.0]


def test_openrlhf_finds_and_calls_the_example(
    embedded_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = pytest.importorskip("openrlhf.utils.agent")
    address = f"127.0.0.1:{embedded_server.port}"
    monkeypatch.setenv("ADJUDGE_SERVER", address)
    executor = agent.SingleTurnAgentExecutor(str(EXAMPLE))
    query = f"{PROMPT}{ANSWER}<|im_end|>"
    fetched: list[dict[str, Any]] = asyncio.run(
        executor._fetch_rewards_via_func([query], [PROMPT], [LABEL])
    )
    with RewardClient(address) as client:
        expected = client.score([SEVEN, str(LABEL["prompt"])], [ANSWER]).rewards
    assert fetched[0]["rewards"].tolist() == pytest.approx(expected, abs=1e-3)
