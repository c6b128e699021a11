"""The run: warm start, steps of PPO, measurements."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn

from .digits import Digits
from .judging import shuffled
from .learning import Learner
from .policy import WIDTH, Prompt, answer, imitate_blindly, make_policy, make_processor
from .records import Measurement, Run, Settings, Step
from .rollouts import Collector, Judge
from .speech import accuracy, wordings_used


def train(
    settings: Settings,
    training: Digits,
    held_out: Digits,
    judge: Judge,
    report: Callable[[object], None] = print,
) -> Run:
    """Trains a policy from nothing. Raises what the judge raises."""
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    if settings.shuffled:
        judge = shuffled(judge, settings.seed)
    processor = make_processor()
    prompt, policy = Prompt.of(processor), make_policy(processor)
    pixels, unseen = prompt.pixels(training), prompt.pixels(held_out)
    loss = imitate_blindly(policy, prompt, pixels, settings.seed, settings.imitation_steps)
    report(f"imitation: {loss:.2f} nats a token, {time.monotonic() - started:.0f} s")
    value_head = nn.Linear(WIDTH, 1)
    nn.init.zeros_(value_head.weight)
    learner = Learner(policy, value_head, _optimizer(policy, value_head, settings), prompt)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        learner.optimizer, lambda done: min((done + 1) / 10, 1 - done / settings.num_steps)
    )
    reference = copy.deepcopy(policy).requires_grad_(False)
    collector = Collector(prompt, reference, judge, settings.kl_weight, settings.decay)
    run = Run(settings)

    def measure(done: int, count: int) -> None:
        found = _measure(policy, prompt, held_out.first(count), unseen[:count], done)
        run.measurements.append(found)
        report(found)

    measure(0, len(held_out))
    batches = _batches(len(training), settings.num_images, settings.num_answers)
    for number in range(1, settings.num_steps + 1):
        step = _step(number, next(batches), learner, collector, training, pixels)
        schedule.step()
        if step is None:
            run.num_skipped += 1
        else:
            run.steps.append(step)
            report(step)
        if number % settings.measure_every == 0 and number < settings.num_steps:
            measure(number, settings.num_measured)
    measure(settings.num_steps, len(held_out))
    run.seconds = time.monotonic() - started
    return run


def _step(
    number: int,
    rows: Tensor,
    learner: Learner,
    collector: Collector,
    training: Digits,
    pixels: Tensor,
) -> Step | None:
    """Answers, rewards, update. None if not one answer had a reward."""
    begun = time.monotonic()
    images = [training.images[row] for row in rows]
    rollout = collector.collect(learner.policy, learner.value_head, images, pixels[rows])
    if rollout is None:
        return None
    labels = [training.labels[row] for row in rows[rollout.kept]]
    return Step(
        step=number,
        reward=rollout.rewards.mean().item(),
        accuracy=accuracy(learner.prompt.decode(rollout.tokens), labels),
        kl=rollout.divergence.mean().item(),
        length=rollout.mask.sum(1).float().mean().item(),
        num_missing=len(rows) - len(rollout.kept),
        **asdict(learner.update(rollout)),
        seconds=time.monotonic() - begun,
    )


def _batches(size: int, num_images: int, num_answers: int) -> Iterator[Tensor]:
    """Rows of pictures, each repeated for its answers; all pictures before any comes again."""
    while True:
        for rows in torch.randperm(size).split(num_images):
            yield rows.repeat_interleave(num_answers)


def _optimizer(
    policy: nn.Module, value_head: nn.Module, settings: Settings
) -> torch.optim.Optimizer:
    # The eyes know nothing yet and have to learn fast; the language is known, and is easily lost.
    sight = [
        *policy.model.vision_tower.parameters(),
        *policy.model.multi_modal_projector.parameters(),
    ]
    language = [*policy.model.language_model.parameters(), *policy.lm_head.parameters()]
    return torch.optim.Adam(
        [
            {"params": sight, "lr": settings.eyes_learning_rate},
            {"params": [*language, *value_head.parameters()], "lr": settings.learning_rate},
        ],
        eps=1e-5,
    )


def _measure(
    policy: nn.Module, prompt: Prompt, digits: Digits, pixels: Tensor, step: int
) -> Measurement:
    drawn = prompt.decode(answer(policy, prompt, pixels))
    likeliest = prompt.decode(answer(policy, prompt, pixels, sample=False))
    return Measurement(
        step,
        accuracy(drawn, digits.labels),
        accuracy(likeliest, digits.labels),
        wordings_used(drawn),
    )
