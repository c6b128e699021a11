"""The parts of the PPO example, and that it runs. That it learns is shown in docs/ppo.md: it takes
minutes."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.ppo import digits, speech
from examples.ppo.__main__ import main
from examples.ppo.judging import shuffled
from examples.ppo.learning import clipped_objective
from examples.ppo.policy import MAX_ANSWER_TOKENS, Prompt, answer, make_policy, make_processor, run
from examples.ppo.rollouts import Collector, generalised_advantages, normalised
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText

from adjudge_server.serve import Server
from embedded_critic import digits as critic_digits

NUMBERS = st.floats(-2, 2, allow_nan=False, width=32)


@st.composite
def episodes(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, values and a mask of answers of different lengths."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    longest = max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    cells = st.lists(NUMBERS, min_size=mask.numel(), max_size=mask.numel())
    rewards, values = (torch.tensor(draw(cells)).reshape(mask.shape) * mask for _ in range(2))
    return rewards, values, mask


@given(episodes())
def test_without_decay_an_advantage_is_what_still_comes_less_what_was_expected(episode) -> None:
    rewards, values, mask = episode
    to_come = rewards.flip(1).cumsum(1).flip(1)
    advantages = generalised_advantages(rewards, values, mask, 1.0)
    torch.testing.assert_close(advantages, (to_come - values) * mask, atol=1e-4, rtol=0)


@given(episodes())
def test_with_full_decay_an_advantage_looks_one_token_ahead(episode) -> None:
    rewards, values, mask = episode
    following = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], 1)
    advantages = generalised_advantages(rewards, values, mask, 0.0)
    torch.testing.assert_close(advantages, (rewards + following - values) * mask)


@given(episodes(), st.floats(0, 1, width=32), NUMBERS)
def test_what_stands_after_the_end_of_an_answer_changes_no_advantage(
    episode, decay: float, noise: float
) -> None:
    rewards, values, mask = episode
    padded = [torch.where(mask, cells, torch.tensor(noise)) for cells in (rewards, values)]
    torch.testing.assert_close(
        generalised_advantages(*padded, mask, decay),
        generalised_advantages(rewards, values, mask, decay),
    )


@given(episodes())
def test_normalised_advantages_have_mean_zero_and_do_not_count_what_is_masked(episode) -> None:
    advantages, _, mask = episode
    if mask.sum() < 2:
        return
    result = normalised(advantages, mask)
    assert result[mask].mean().abs() < 1e-2
    assert not result[~mask].any()


@given(st.floats(-3, 3), st.floats(-1, 1), st.floats(0.05, 0.5))
def test_the_clipped_objective_gains_nothing_beyond_the_clip_but_always_pays_for_a_loss(
    change: float, advantage: float, clip: float
) -> None:
    old = torch.zeros(1, dtype=torch.float64)
    new, worth = old + change, old + advantage
    found = clipped_objective(new, old, worth, clip).item()
    unclipped = math.exp(change) * advantage
    assert found <= unclipped + 1e-12
    assert found <= (1 + clip) * max(advantage, 0) + 1e-12
    if abs(math.exp(change) - 1) < clip:
        assert found == pytest.approx(unclipped)


def test_policy_and_critic_have_the_same_training_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 28, 28), np.uint8)
    np.savez(tmp_path / "mnist-10000.npz", pixels=pixels, labels=np.arange(1200) % 10)
    ours, theirs = digits.load_digits(tmp_path), critic_digits.load_digits(tmp_path)
    for own, other in zip(ours, theirs, strict=True):
        assert own.labels == tuple(other.labels)
        assert all(
            np.array_equal(image, pixels)
            for image, pixels in zip(own.images, other.pixels, strict=True)
        )
    assert (digits.PACKAGE, digits.SHA512) == (critic_digits.PACKAGE, critic_digits.SHA512)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("This is a handwritten number seven.", True),
        ("seven", True),
        ("It could be a seven or a one.", False),
        ("It is a seven seven.", False),
        ("It is a one.", False),
        ("It is a number.", False),
        ("", False),
    ],
)
def test_only_naming_the_one_digit_is_right(text: str, right: bool) -> None:
    assert speech.is_right(text, 7) is right


@given(st.integers())
def test_everything_that_is_imitated_can_be_said(seed: int) -> None:
    text = speech.blind_answer(random.Random(seed))
    tokens = PROMPT.encode([text])
    assert PROMPT.decode(tokens) == [text]
    assert tokens.shape[1] <= MAX_ANSWER_TOKENS
    assert PROMPT.mask(tokens).all()


PROMPT = Prompt.of(make_processor())


def test_the_mask_ends_with_the_first_end() -> None:
    end, pad = PROMPT.encode([""])[0, 0].item(), PROMPT.processor.tokenizer.pad_token_id
    tokens = torch.tensor([[7, end, pad, pad], [7, 8, 9, 10], [end, 7, end, 7]])
    counted = [[True, True, False, False], [True] * 4, [True, False, False, False]]
    assert PROMPT.mask(tokens).tolist() == counted


def test_the_log_probabilities_learnt_from_are_those_that_answers_are_sampled_with() -> None:
    torch.manual_seed(0)
    policy = make_policy(PROMPT.processor).eval()
    pixels = PROMPT.pixels(digits.load_labelled())
    likeliest = answer(policy, PROMPT, pixels, sample=False)
    with torch.no_grad():
        logits, _ = run(policy, PROMPT, pixels, likeliest)
    mask = PROMPT.mask(likeliest)
    assert torch.equal(logits.argmax(-1)[mask], likeliest[mask])


def test_a_trainer_that_saves_and_loads_the_policy_gets_the_same_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = make_policy(PROMPT.processor).eval()
    policy.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    pixels, tokens = PROMPT.pixels(digits.load_labelled().first(2)), PROMPT.encode(["It is a one."])
    with torch.no_grad():
        ours, theirs = (run(one, PROMPT, pixels, tokens.repeat(2, 1)) for one in (policy, loaded))
    torch.testing.assert_close(ours[0], theirs[0])


def test_an_answer_without_a_reward_is_left_out_and_counted() -> None:
    torch.manual_seed(0)
    policy = make_policy(PROMPT.processor)
    shown = digits.load_labelled().first(4)
    rewards = [50.0, None, 0.0, None]
    head = torch.nn.Linear(policy.config.text_config.hidden_size, 1)
    collector = Collector(PROMPT, policy, lambda images, answers: rewards, 0.05, 0.95)
    rollout = collector.collect(policy, head, shown.images, PROMPT.pixels(shown))
    assert rollout is not None
    assert rollout.rewards.tolist() == [50.0, 0.0]
    assert rollout.kept.tolist() == [0, 2]
    assert len(rollout.tokens) == len(rollout.pixels) == len(rollout.advantages) == 2
    rewards[:] = [None] * 4
    assert collector.collect(policy, head, shown.images, PROMPT.pixels(shown)) is None


def test_the_controls_rewards_are_the_same_ones_in_other_places() -> None:
    rewards: list[float | None] = [float(i) for i in range(50)]
    judge = shuffled(lambda images, answers: rewards, seed=1)
    dealt = judge([Image.new("L", (1, 1))] * 50, [""] * 50)
    assert sorted(dealt) == rewards
    assert sum(one == other for one, other in zip(dealt, rewards, strict=True)) < 10


@pytest.mark.filterwarnings("ignore")
def test_the_example_runs_and_writes_finite_figures(
    embedded_server: Server, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    common = ["--quick", "--out", str(tmp_path), "--server", f"127.0.0.1:{embedded_server.port}"]
    assert main(common) == 0
    assert main([*common, "--control"]) == 0
    runs = json.loads((tmp_path / "ppo.json").read_text())
    assert set(runs) == {"seed 1", "control, seed 1"}
    for run_ in runs.values():
        assert len(run_["steps"]) == 3
        for step in run_["steps"]:
            assert 0 <= step["reward"] <= 100
            assert step["num_missing"] == 0
            assert all(math.isfinite(number) for number in step.values())
    assert (tmp_path / "ppo.png").stat().st_size > 10_000
