"""The TRL example: a short run of each trainer, during which the server is killed."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("trainer", "asynchronous"), [("GRPO", False), ("RLOO", False), ("GRPO", True)]
)
@pytest.mark.filterwarnings("ignore")
def test_a_killed_server_costs_no_step_and_no_wrong_reward(
    trainer: str, asynchronous: bool
) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    example = importlib.import_module("examples.trl_digits")
    server = example.CriticServer()
    server.start()
    digits = example.load_labelled()
    try:
        plan = example.Plan(
            trainer, num_steps=8, num_answers=4, kills=[4], asynchronous=asynchronous
        )
        figures = example.train(plan, server, digits, digits)
    finally:
        server.stop()
    assert figures["steps"] == 8
    assert figures["server_kills"] == 1
    assert figures["rewards_given"] == 2 * 16 * 4
    assert figures["rewards_wrong_or_missing"] == 0


def test_a_wrong_or_missing_reward_would_be_noticed(embedded_server) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    example = importlib.import_module("examples.trl_digits")
    digits = example.load_labelled().first(3)
    address = f"127.0.0.1:{embedded_server.port}"
    recorder = example.Recorder(address)
    recorder(
        [example.QUESTION] * 3,
        [[{"role": "assistant", "content": "It is a nine."}]] * 3,
        image=digits.images,
    )
    assert example.count_wrong(recorder.judged, address) == 0
    image, text, reward = recorder.judged[0]
    spoilt = [(image, text, None), (image, text, reward + 1), *recorder.judged]
    assert example.count_wrong(spoilt, address) == 2
