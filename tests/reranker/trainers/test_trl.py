"""The callables as TRL calls them: keyword arguments, columns, its loggers."""

import asyncio
import inspect
import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import PIL.Image
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import (
    AsyncRewardClient,
    RequestRefused,
    RetryPolicy,
    RewardClient,
    RewardError,
    ServerUnavailable,
)
from adjudge_reranker.trainers import (
    AdjudgeGroupPreference,
    AdjudgeReward,
    AsyncAdjudgeGroupPreference,
    AsyncAdjudgeReward,
)
from adjudge_server.config import Config
from adjudge_server.serve import Server
from tests.conftest import CROSS, SEVEN, running
from tests.reranker import scripted
from tests.reranker.scripted import ScriptedService

QUESTION = "What this image presents?"
ANSWERS = [CROSS, "This is a handwritten number seven.", "a one"]
ONCE = RetryPolicy(0.0, 0.0, max_attempts=1)


@pytest.fixture
def embedded(embedded_server: Server) -> str:
    return f"127.0.0.1:{embedded_server.port}"


def scripted_reward(script: ScriptedService, **options: Any) -> AdjudgeReward:
    return AdjudgeReward(RewardClient(script.address, retry=ONCE, timeout=20.0), **options)


def unavailable() -> scripted.Step:
    return scripted.fail(grpc.StatusCode.UNAVAILABLE, "NOT_READY")


def one_too_long(request: Any, context: Any) -> pb.ScoreCandidatesResponse:
    response = scripted.good_scores(request, context)
    refusal = scripted.status(grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG")
    response.outcomes[1].CopyFrom(pb.ScoreOutcome(error=refusal))
    return response


def test_rewards_are_those_of_the_client(embedded: str) -> None:
    prompts = [QUESTION] * 3 + ["What is it?"] * 3
    images = [PIL.Image.open(SEVEN) for _ in prompts]  # loaded anew for each row, as TRL does
    rewards = AdjudgeReward(embedded)(prompts=prompts, completions=ANSWERS * 2, image=images)
    with RewardClient(embedded) as client:
        expected = [
            reward
            for prompt in (QUESTION, "What is it?")
            for reward in client.score([images[0], prompt], ANSWERS).rewards
        ]
    assert rewards == pytest.approx(expected, abs=1e-3)


def test_the_picture_reaches_the_critic(embedded: str) -> None:
    blank = PIL.Image.new("RGB", (28, 28))
    reward = AdjudgeReward(embedded)
    seen, unseen = reward(
        prompts=[QUESTION] * 2,
        completions=["This is a handwritten number seven."] * 2,
        images=[[PIL.Image.open(SEVEN)], [blank]],
    )
    assert seen is not None and unseen is not None
    assert seen > unseen + 1


def test_conversations_are_judged_as_their_plain_texts(embedded: str) -> None:
    image = PIL.Image.open(SEVEN)
    plain = AdjudgeReward(embedded)(
        prompts=[QUESTION] * 3, completions=ANSWERS, images=[[image]] * 3
    )
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    conversational = AdjudgeReward(embedded)(
        prompts=[[{"role": "user", "content": content}]] * 3,
        completions=[[{"role": "assistant", "content": answer}] for answer in ANSWERS],
        images=[[image]] * 3,  # TRL hands over both
    )
    assert conversational == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "twin"),
    [
        (AdjudgeReward, AsyncAdjudgeReward),
        (AdjudgeGroupPreference, AsyncAdjudgeGroupPreference),
    ],
)
def test_a_pickled_coroutine_gives_the_same_rewards(
    kind: type[AdjudgeReward], twin: type[AsyncAdjudgeReward], embedded: str
) -> None:
    columns = {"prompts": [QUESTION] * 3, "completions": ANSWERS, "image": [SEVEN] * 3}
    expected = kind(embedded)(**columns)
    reward = pickle.loads(pickle.dumps(twin(embedded)))
    assert inspect.iscoroutinefunction(reward.__call__)
    assert asyncio.run(reward(**columns)) == pytest.approx(expected, abs=1e-3)
    again = pickle.loads(pickle.dumps(kind(embedded, name="mine")))
    assert again(**columns) == pytest.approx(expected, abs=1e-3)
    assert again.__name__ == "mine"


def test_the_preferences_of_a_group_average_to_a_half_and_the_right_answer_wins(
    embedded: str,
) -> None:
    right, wrong = "This is a handwritten number seven.", CROSS
    first, second, alone = AdjudgeGroupPreference(embedded)(
        prompts=[QUESTION, QUESTION, "Another?"],
        completions=[wrong, right, right],
        image=[SEVEN, SEVEN, SEVEN],
    )
    assert alone is None
    assert first is not None and second is not None
    assert 0 <= first < second <= 1
    assert first + second == pytest.approx(1)


def test_equal_prompts_are_one_request_and_unequal_ones_are_not(script: ScriptedService) -> None:
    rewards = scripted_reward(script)(
        prompts=["a", "b", "a", "b"], completions=["1", "22", "333", "4444"], image=None
    )
    assert rewards == [1.0, 2.0, 3.0, 4.0]
    assert sorted(len(request.candidates) for request in script.requests) == [2, 2]


def test_references_come_from_the_column_of_that_name(script: ScriptedService) -> None:
    columns = {"prompts": ["a", "a"], "completions": ["1", "2"], "solution": ["x", "y"]}
    scripted_reward(script, reference_column="solution")(**columns)
    scripted_reward(script)(**columns)
    assert sorted(request.reference for request in script.requests) == ["", "x", "y"]


def test_a_failed_completion_is_missing_and_its_siblings_are_not(script: ScriptedService) -> None:
    script.plan(one_too_long)
    columns = {"prompts": ["a"] * 3, "completions": ["1", "22", "333"]}
    assert scripted_reward(script)(**columns) == [1.0, None, 3.0]
    script.plan(one_too_long)
    first, missing, last = scripted_reward(script, on_failure="nan")(**columns)
    assert (first, last) == (1.0, 3.0)
    assert missing is not None and math.isnan(missing)
    script.plan(one_too_long)
    with pytest.raises(RequestRefused, match="INPUT_TOO_LONG") as caught:
        scripted_reward(script, on_failure="raise")(**columns)
    assert "1 of 3 completions" in caught.value.__notes__[0]


def test_a_server_that_is_down_gives_none(script: ScriptedService) -> None:
    script.plan(unavailable())
    assert scripted_reward(script)(prompts=["a"] * 2, completions=["1", "2"]) == [None, None]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
def test_waiting_asks_until_the_server_is_back(
    script: ScriptedService, code: grpc.StatusCode
) -> None:
    script.plan(scripted.fail(code), scripted.fail(code))
    reward = scripted_reward(script, on_failure="wait", max_wait_seconds=30.0)
    assert reward(prompts=["a"] * 2, completions=["1", "22"]) == [1.0, 2.0]


def test_a_server_that_is_restarted_costs_no_reward() -> None:
    columns = {"prompts": ["a", "b"] * 8, "completions": [str(n) for n in range(16)]}
    with running(Config(listen="127.0.0.1:0", critic="fake", drain_seconds=1.0)) as server:
        address = f"127.0.0.1:{server.port}"
        client = RewardClient(address, retry=ONCE, timeout=20.0)
        reward = AdjudgeReward(client, on_failure="wait", max_wait_seconds=60.0)
        expected = reward(**columns)
    with ThreadPoolExecutor(1) as pool:
        rewards = pool.submit(reward, **columns)
        time.sleep(0.3)
        assert not rewards.done()
        with running(Config(listen=address, critic="fake", drain_seconds=1.0)):
            assert rewards.result(60) == expected
    assert None not in expected


def test_waiting_ends_at_its_limit_with_the_error(script: ScriptedService) -> None:
    script.plan(*[unavailable()] * 100)
    reward = scripted_reward(script, on_failure="wait", max_wait_seconds=0.3)
    with pytest.raises(ServerUnavailable):
        reward(prompts=["a", "b"], completions=["1", "2"])


def test_the_coroutine_waits_too_and_raises_the_error_itself(script: ScriptedService) -> None:
    client = AsyncRewardClient(script.address, retry=ONCE, timeout=20.0)
    reward = AsyncAdjudgeReward(client, on_failure="wait", max_wait_seconds=0.5)
    script.plan(unavailable())
    assert asyncio.run(reward(prompts=["a"], completions=["1"])) == [1.0]
    script.plan(*[unavailable()] * 100)
    with pytest.raises(ServerUnavailable):
        asyncio.run(reward(prompts=["a", "b"], completions=["1", "2"]))


def test_waiting_does_not_repeat_what_cannot_succeed(script: ScriptedService) -> None:
    script.plan(one_too_long)
    reward = scripted_reward(script, on_failure="wait")
    assert reward(prompts=["a"] * 2, completions=["1", "22"]) == [1.0, None]
    assert len(script.requests) == 1


@pytest.mark.parametrize("policy", ["none", "nan", "raise", "wait"])
def test_wrong_settings_are_raised_under_every_policy(script: ScriptedService, policy: str) -> None:
    script.plan(scripted.fail(grpc.StatusCode.NOT_FOUND, "UNKNOWN_TEMPLATE"))
    with pytest.raises(RewardError, match="UNKNOWN_TEMPLATE"):
        scripted_reward(script, on_failure=policy)(prompts=["a"], completions=["1"])


def test_an_unknown_policy_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="zero"):
        AdjudgeReward(on_failure="zero")


def test_what_is_logged_leaves_failures_out_of_the_mean(script: ScriptedService) -> None:
    script.plan(one_too_long)
    metrics: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    scripted_reward(script)(
        prompts=["a"] * 3,
        completions=["1", "22", "333"],
        trainer_state=None,
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert metrics["adjudge_reward/mean"] == 2.0
    assert metrics["adjudge_reward/spread_in_group"] == 1.0
    assert metrics["adjudge_reward/failed/refused"] == pytest.approx(1 / 3)
    assert metrics["adjudge_reward/failed/unavailable"] == 0.0
    assert extra == {"adjudge_reward/failure": [None, "INPUT_TOO_LONG", None]}


def test_a_trainer_that_would_take_none_for_zero_gets_the_error(script: ScriptedService) -> None:
    script.plan(one_too_long)
    with pytest.raises(RequestRefused) as caught:
        scripted_reward(script)(prompts=["a"] * 2, completions=["1", "2"], trainer_state=object())
    assert "0.0" in "".join(caught.value.__notes__)
