"""Teaches the policy of `examples.ppo` to read digits with TRL: `python -m examples.trl_digits`.

Starts a server with the embedded critic and, if asked to, kills it in the middle of the run. Prints
figures as JSON. Needs `pip install trl`; no GPU, because the policy is tiny.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
import trl
from examples.ppo.digits import Digits, load_digits, load_labelled
from examples.ppo.policy import (
    MAX_ANSWER_TOKENS,
    Prompt,
    answer,
    imitate_blindly,
    make_policy,
    make_processor,
)
from examples.ppo.serving import CriticServer
from examples.ppo.speech import QUESTION, accuracy
from transformers import TrainerCallback

from adjudge_reranker.trainers import AdjudgeReward, AsyncAdjudgeReward

KL_WEIGHT = {"GRPO": 0.15, "RLOO": 5.0}
"""RLOO takes it from the reward, which goes up to 100; GRPO adds it to a loss whose rewards are
scaled to spread 1. Without it GRPO's policy found that "This is a handwritten number." is worth 40
on any picture, and said nothing else."""


class Killer(TrainerCallback):
    """Kills the server in some steps, and starts it again two seconds later."""

    def __init__(self, server: CriticServer, steps: Sequence[int]):
        self.server, self.steps, self.num_kills = server, steps, 0
        self._restart: threading.Thread | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        if state.global_step in self.steps:
            self.join()
            self.num_kills += 1
            self._restart = threading.Thread(target=self._revive)
            self._restart.start()

    def join(self) -> None:
        """Waits until the server is back."""
        if self._restart is not None:
            self._restart.join()

    def _revive(self) -> None:
        time.sleep(0.3)  # so that it dies while it works on the step's batch
        self.server.kill()
        time.sleep(2.0)
        self.server.start()


class Recorder:
    """A reward function that keeps what the critic said about what, so that it can be checked."""

    __name__ = "critic"

    def __init__(self, address: str):
        self._reward = AdjudgeReward(address, on_failure="wait", max_wait_seconds=300)
        self.judged: list[tuple[Any, str, float | None]] = []

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        rewards = self._reward(prompts, completions, **columns)
        self.judged += zip(columns["image"], map(text_of, completions), rewards, strict=True)
        return rewards


class AsyncRecorder(Recorder):
    """The same as a coroutine."""

    def __init__(self, address: str):
        super().__init__(address)
        self._async_reward = AsyncAdjudgeReward(address, on_failure="wait", max_wait_seconds=300)

    async def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        rewards = await self._async_reward(prompts, completions, **columns)
        self.judged += zip(columns["image"], map(text_of, completions), rewards, strict=True)
        return rewards


def text_of(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def count_wrong(judged: Sequence[tuple[Any, str, float | None]], address: str) -> int:
    """How many rewards are missing, or are not what the critic says when it is asked again."""
    images, answers, rewards = zip(*judged, strict=True)
    again = AdjudgeReward(address, on_failure="raise")(
        [QUESTION] * len(answers), answers, image=images
    )
    return sum(
        one is None or abs(one - other) > 0.01 for one, other in zip(rewards, again, strict=True)
    )


def rows_of(digits: Digits) -> datasets.Dataset:
    """The question about each picture. The labels stay here."""
    prompt = [{"role": "user", "content": QUESTION}]
    return datasets.Dataset.from_dict(
        {"prompt": [prompt] * len(digits), "image": list(digits.images)}
    )


def settings_of(
    trainer: str, prompt: Prompt, num_steps: int, num_answers: int, folder: str, seed: int
) -> Any:
    return getattr(trl, f"{trainer}Config")(
        output_dir=folder,
        per_device_train_batch_size=16 * num_answers,
        num_generations=num_answers,
        num_iterations=4,  # uses of a batch: the critic's work is dearer than the policy's
        steps_per_generation=1,
        max_completion_length=MAX_ANSWER_TOKENS,
        generation_kwargs={"suppress_tokens": prompt.unspeakable},
        max_steps=num_steps,
        learning_rate=5e-4,
        warmup_steps=20,
        beta=KL_WEIGHT[trainer],
        # Groups without a right answer differ by next to nothing. Scaled by their own spread, as is
        # GRPO's default, that nothing would count as much as right and wrong.
        **{"scale_rewards": "batch"} if trainer == "GRPO" else {},
        seed=seed,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        log_completions=False,
        disable_tqdm=True,
    )


@dataclass(frozen=True)
class Plan:
    """What to run."""

    trainer: str
    """`GRPO` or `RLOO`."""
    num_steps: int
    """Of the optimizer, four to a batch of answers."""
    num_answers: int = 8
    """To each of the 16 pictures of a batch."""
    kills: Sequence[int] = ()
    """The steps in which the server is killed."""
    asynchronous: bool = False
    seed: int = 1


def train(plan: Plan, server: CriticServer, training: Digits, held_out: Digits) -> dict[str, Any]:
    """The figures of a run. Raises RewardError if the server stays away for five minutes."""
    started = time.monotonic()
    torch.manual_seed(plan.seed)
    processor = make_processor()
    policy, prompt = make_policy(processor), Prompt.of(processor)
    imitate_blindly(policy, prompt, prompt.pixels(training.first(1000)), plan.seed, steps=80)
    pixels = prompt.pixels(held_out)

    def measured() -> float:
        policy.eval()
        return accuracy(prompt.decode(answer(policy, prompt, pixels)), held_out.labels)

    before = measured()
    recorder = (AsyncRecorder if plan.asynchronous else Recorder)(server.address)
    killer = Killer(server, plan.kills)
    with tempfile.TemporaryDirectory() as folder:
        # TRL loads the reference from where the policy came from.
        policy.save_pretrained(folder)
        policy = type(policy).from_pretrained(folder)
        loop = getattr(trl, f"{plan.trainer}Trainer")(
            model=policy,
            processing_class=processor,
            reward_funcs=recorder,
            args=settings_of(
                plan.trainer, prompt, plan.num_steps, plan.num_answers, folder, plan.seed
            ),
            train_dataset=rows_of(training),
            callbacks=[killer],
        )
        loop.train()
    seconds = time.monotonic() - started
    killer.join()
    rewards = [entry["reward"] for entry in loop.state.log_history if "reward" in entry]
    tenth = max(1, len(rewards) // 10)
    return {
        "trainer": plan.trainer,
        "asynchronous": plan.asynchronous,
        "seed": plan.seed,
        "steps": loop.state.global_step,
        "server_kills": killer.num_kills,
        "rewards_given": len(recorder.judged),
        "rewards_wrong_or_missing": count_wrong(recorder.judged, server.address),
        "reward_first_tenth": round(sum(rewards[:tenth]) / tenth, 2),
        "reward_last_tenth": round(sum(rewards[-tenth:]) / tenth, 2),
        "accuracy_before": before,
        "accuracy_after": measured(),
        "seconds": round(seconds),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.trl_digits", description=__doc__)
    parser.add_argument("--trainer", choices=["grpo", "rloo"], default="grpo")
    parser.add_argument("--asynchronous", action="store_true", help="a reward that is a coroutine")
    parser.add_argument("--steps", type=int, default=200, help="of the optimizer, 4 to a batch")
    parser.add_argument("--kills", type=int, default=3, help="times that the server is killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path("build/digits"), help="of the pictures")
    parser.add_argument("--quick", action="store_true", help="see whether it runs; learns nothing")
    options = parser.parse_args(arguments)
    steps = 8 if options.quick else options.steps
    plan = Plan(
        options.trainer.upper(),
        num_steps=steps,
        num_answers=4 if options.quick else 8,
        # Evenly, and in steps that begin with a new batch.
        kills=[4 * (steps * (i + 1) // (options.kills + 1) // 4) for i in range(options.kills)],
        asynchronous=options.asynchronous,
        seed=options.seed,
    )
    training, held_out = (load_labelled(),) * 2 if options.quick else load_digits(options.data)
    server = CriticServer()
    server.start()
    try:
        figures = train(plan, server, training, held_out)
    finally:
        server.stop()
    print(json.dumps(figures))
    return 0 if figures["rewards_wrong_or_missing"] == 0 else 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
