"""Candidates come from real transformers models, of random weights."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import PIL.Image
import pytest
import torch

from adjudge_reranker import RewardClient
from adjudge_reranker.content import to_prompt
from adjudge_reranker.generation import (
    Finish,
    Sample,
    StopReason,
    TransformersPolicy,
    generate_best_of_n,
)
from adjudge_server.serve import Server
from tests.conftest import SEVEN
from tests.reranker.generation import tiny
from tests.reranker.generation.policies import Table


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.blind()


@pytest.fixture(scope="module")
def seeing() -> tuple[Any, Any]:
    return tiny.seeing()


class Order:
    """Wants so many, and is over after so many looks."""

    def __init__(self, count: int, looks: int = 10**9) -> None:
        self.left = count
        self.num_begun = 0
        self.looks = looks

    @property
    def num_wanted(self) -> int:
        return self.left

    @property
    def is_over(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def begin(self, count: int) -> range:
        self.left -= count
        self.num_begun += count
        return range(self.num_begun - count, self.num_begun)


def sampled(
    policy: TransformersPolicy, count: int, prompt: Any = "what digit"
) -> list[Sample[str]]:
    batches = policy.samples(to_prompt(prompt), Order(count))
    return [sample for batch in batches for sample in batch]


class Lengths(Table):
    """The reward is the number of words."""

    def _outcome(self, candidate):
        self.rewards[candidate] = float(len(candidate.split()))
        return super()._outcome(candidate)


def forced(model: Any, rows: Sequence[Sequence[int]]) -> Any:
    """The model, made to say these tokens, one row for each sequence of a chunk."""

    class Forced:
        device, dtype = model.device, model.dtype
        generation_config = model.generation_config

        def generate(self, input_ids, num_return_sequences, stopping_criteria, **options):
            assert num_return_sequences == len(rows)
            return torch.cat([input_ids.expand(len(rows), -1), torch.tensor(rows)], dim=1)

    return Forced()


def test_a_seed_gives_what_generate_gives_chunk_by_chunk(model) -> None:
    tokenizer = tiny.tokenizer()
    options = {"max_new_tokens": 12, "temperature": 1.5}
    policy = TransformersPolicy(model, tokenizer, chunk_size=4, **options)
    torch.manual_seed(3)
    samples = sampled(policy, 6)
    after = torch.rand(1)
    torch.manual_seed(3)
    ids = tokenizer("what digit ", return_tensors="pt")["input_ids"]
    expected: list[str] = []
    for count in (4, 2):
        rows = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            num_return_sequences=count,
            **options,
        )[:, ids.shape[1] :]
        expected += tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert [sample.content for sample in samples] == expected
    assert torch.rand(1) == after  # nothing else drew from the generator
    assert [sample.index for sample in samples] == list(range(6))
    assert len(set(expected)) > 1


def test_answers_end_at_the_end_of_sequence_and_others_are_truncated(model) -> None:
    policy = TransformersPolicy(model, tiny.tokenizer(), chunk_size=8, max_new_tokens=6)
    torch.manual_seed(0)
    samples = sampled(policy, 40)
    finishes = {sample.finish for sample in samples}
    assert finishes == {Finish.COMPLETE, Finish.LENGTH}
    for sample in samples:
        assert "<" not in sample.content
        # What has no end has all the tokens that there may be; some of them may be special.
        if sample.finish is Finish.LENGTH:
            assert len(sample.content.split()) <= 6


def test_padding_is_trimmed_and_what_comes_after_the_end_does_not_count(model) -> None:
    one, seven, it = 6, 7, 8
    rows = [
        [one, tiny.EOS, tiny.PAD, tiny.PAD],
        [tiny.EOS, one, one, one],
        [one, seven, it, it],
        [one, seven, tiny.PAD, tiny.PAD],
    ]
    policy = TransformersPolicy(forced(model, rows), tiny.tokenizer())
    samples = sampled(policy, 4)
    assert [sample.content for sample in samples] == ["one", "", "one seven it it", "one seven"]
    assert [sample.finish for sample in samples] == [
        Finish.COMPLETE,
        Finish.COMPLETE,
        Finish.LENGTH,
        Finish.LENGTH,
    ]


def test_a_text_to_stop_at_completes_an_answer(model) -> None:
    policy = TransformersPolicy(
        model, tiny.tokenizer(), chunk_size=8, max_new_tokens=40, stop_strings=["seven"]
    )
    torch.manual_seed(1)
    samples = sampled(policy, 24)
    ended = [sample for sample in samples if sample.content.endswith("seven")]
    assert ended
    assert all(sample.finish is Finish.COMPLETE for sample in ended)
    assert all(sample.content.count("seven") <= 1 for sample in samples)


def test_a_chunk_ends_at_the_next_token_once_the_choice_is_made(model) -> None:
    num_steps: list[int] = []

    def count(input_ids, scores, **options):
        num_steps.append(input_ids.shape[1])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    policy = TransformersPolicy(
        model,
        tiny.tokenizer(),
        chunk_size=4,
        max_new_tokens=400,
        suppress_tokens=[tiny.EOS],
        stopping_criteria=[count],
    )
    order = Order(4, looks=5)
    (batch,) = policy.samples(to_prompt("what digit"), order)
    assert len(num_steps) == 6
    assert batch == []  # none of them was complete


def test_answers_complete_before_the_choice_is_made_still_count(model) -> None:
    policy = TransformersPolicy(model, tiny.tokenizer(), chunk_size=16, max_new_tokens=400)
    torch.manual_seed(0)
    order = Order(16, looks=4)
    (batch,) = policy.samples(to_prompt("what digit"), order)
    assert 0 < len(batch) < 16
    assert {sample.finish for sample in batch} == {Finish.COMPLETE}


def test_the_policy_and_the_critic_see_the_same_picture(seeing) -> None:
    model, processor = seeing
    seen: list[Any] = []

    class Looking(Table):
        def score(self, prompt, candidates, **options):
            seen.extend(prompt[0].parts)
            self.rewards = dict.fromkeys(candidates, 1.0)
            return super().score(prompt, candidates, **options)

    shown: list[torch.Tensor] = []
    generate = model.generate

    def watched(**options):
        shown.append(options["pixel_values"])
        return generate(**options)

    model.generate = watched
    try:
        policy = TransformersPolicy(model, processor, chunk_size=2, max_new_tokens=4)
        generate_best_of_n(
            Looking({}), policy, [SEVEN, "what digit is it"], 2, allow_truncated=True
        )
    finally:
        del model.generate
    assert seen[0].source == SEVEN.read_bytes()
    expected = processor.image_processor(PIL.Image.open(SEVEN).convert("RGB"), return_tensors="pt")[
        "pixel_values"
    ]
    assert torch.equal(shown[0], expected.to(model.dtype))


def test_pixels_are_cast_to_the_type_of_the_model(seeing) -> None:
    _, processor = seeing
    model, _ = tiny.seeing()
    policy = TransformersPolicy(model.to(torch.bfloat16), processor, max_new_tokens=2)
    assert len(sampled(policy, 2, [SEVEN, "what digit"])) == 2


def test_a_tokenizer_takes_no_pictures(model) -> None:
    policy = TransformersPolicy(model, tiny.tokenizer())
    with pytest.raises(ValueError, match="takes none"):
        sampled(policy, 1, [SEVEN, "what digit"])


def test_without_a_template_texts_are_joined(model) -> None:
    lengths: list[int] = []

    class Measured:
        device, dtype = model.device, model.dtype
        generation_config = model.generation_config

        def generate(self, **options):
            lengths.append(options["input_ids"].shape[1])
            return model.generate(**options)

    policy = TransformersPolicy(Measured(), tiny.tokenizer(None), chunk_size=1, max_new_tokens=2)
    sampled(policy, 1, "what digit is it")
    assert lengths == [4]


@pytest.mark.parametrize(
    "options", [{"chunk_size": 0}, {"num_return_sequences": 2}, {"return_dict_in_generate": True}]
)
def test_options_that_make_no_sense_are_refused(options) -> None:
    with pytest.raises(ValueError):
        TransformersPolicy(None, None, **options)


def test_generating_stops_when_the_reward_is_good_enough(model) -> None:
    policy = TransformersPolicy(model, tiny.tokenizer(), chunk_size=2, max_new_tokens=30)
    torch.manual_seed(0)
    selection = generate_best_of_n(
        Lengths({}), policy, "what digit", 400, good_enough=1.0, allow_truncated=True
    )
    assert selection.stop is StopReason.GOOD_ENOUGH
    assert selection.num_begun < 400
    assert selection.best.reward == max(r for r in selection.rewards if r is not None)


def test_the_embedded_critic_chooses_among_the_answers_of_a_policy_that_sees(
    seeing, embedded_server: Server
) -> None:
    torch.manual_seed(0)
    policy = TransformersPolicy(*seeing, chunk_size=4, max_new_tokens=6)
    prompt = [SEVEN, "what digit is it"]
    with RewardClient(f"127.0.0.1:{embedded_server.port}") as client:
        selection = generate_best_of_n(client, policy, prompt, 8, allow_truncated=True)
        assert selection.num_generated == 8
        judged = [a for a in selection.attempts if a.reward is not None]
        again = client.score(prompt, [a.candidate for a in judged]).rewards
    assert len(judged) > 1
    assert [a.reward for a in judged] == pytest.approx(list(again), abs=1e-3)
    assert selection.best.reward == max(a.reward for a in judged)


def test_the_library_is_loaded_no_sooner_than_it_is_used() -> None:
    program = (
        "import sys, adjudge_reranker.generation as g; g.TransformersPolicy(None, None);"
        " g.OpenAIPolicy('policy');"
        " print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "adjudge_reranker" in loaded
    assert not loaded & {"torch", "transformers", "openai", "scipy", "httpx2", "httpx"}
