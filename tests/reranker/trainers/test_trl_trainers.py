"""TRL's own trainers, two steps of a tiny policy, with the embedded critic as the reward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from adjudge_reranker import RetryPolicy, RewardClient
from adjudge_reranker.trainers import (
    AdjudgeGroupPreference,
    AdjudgeReward,
    AsyncAdjudgeReward,
)
from adjudge_server.serve import Server
from tests.conftest import SEVEN
from tests.reranker import scripted
from tests.reranker.scripted import ScriptedService

WORDS = ["<pad>", "<eos>", "<image>", "what", "digit", "a", "one", "seven", "it", "is", "the"]


CHAT = [{"role": "user", "content": "what digit is it"}]
PLAIN = [{"prompt": "what digit is it", "seen": str(SEVEN)}] * 4


@pytest.fixture
def trl() -> Any:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    pytest.importorskip("datasets")
    return trl


TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }} {% else %}"
    "{% for p in m['content'] %}{{ '<image> ' if p['type'] == 'image' else p['text'] + ' ' }}"
    "{% endfor %}{% endif %}{% endfor %}"
)
TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="it"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        additional_special_tokens=["<image>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def blind_policy() -> tuple[Any, Any]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**TEXT)), tiny_tokenizer()


def seeing_policy() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
    )

    eyes = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image_processor=eyes,
        tokenizer=tiny_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=Qwen2Config(**TEXT),
        image_token_index=WORDS.index("<image>"),
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config), processor


def train(
    trl: Any,
    algorithm: str,
    reward: Any,
    directory: Path,
    rows: list[dict[str, Any]],
    policy: Callable[[], tuple[Any, Any]] = blind_policy,
) -> list[dict[str, float]]:
    """The log of two steps."""
    import datasets
    import torch

    torch.manual_seed(0)
    model, tokenizer = policy()
    data = datasets.Dataset.from_list(rows)
    if "image" in data.column_names:
        data = data.cast_column("image", datasets.Image())
    arguments = getattr(trl, f"{algorithm}Config")(
        output_dir=str(directory),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=4,
        max_steps=2,
        beta=0.0,  # or RLOO wants to load the reference policy from a file
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        log_completions=False,
    )
    trainer = getattr(trl, f"{algorithm}Trainer")(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward,
        args=arguments,
        train_dataset=data,
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "reward" in entry]


@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
@pytest.mark.parametrize("kind", [AdjudgeReward, AsyncAdjudgeReward, AdjudgeGroupPreference])
@pytest.mark.filterwarnings("ignore")
def test_trl_trains_on_the_critics_rewards(
    trl: Any, algorithm: str, kind: type, embedded_server: Server, tmp_path: Path
) -> None:
    reward = kind(f"127.0.0.1:{embedded_server.port}", image_column="seen", on_failure="raise")
    name = reward.__name__
    for entry in train(trl, algorithm, reward, tmp_path, PLAIN):
        assert entry["reward"] == pytest.approx(entry[f"{name}/mean"], abs=1e-4)
        assert entry["reward"] == pytest.approx(entry[f"rewards/{name}/mean"], abs=1e-4)
        assert entry[f"{name}/failed/unavailable"] == 0.0
        assert 0 < entry[f"{name}/valid_mass"] <= 1


@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
@pytest.mark.filterwarnings("ignore")
def test_trl_keeps_a_missing_reward_out_of_its_mean(
    trl: Any, algorithm: str, script: ScriptedService, tmp_path: Path
) -> None:
    def second_fails(request: Any, context: Any) -> Any:
        response = scripted.good_scores(request, context)
        refusal = scripted.status(grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG")
        response.outcomes[1].Clear()
        response.outcomes[1].error.CopyFrom(refusal)
        return response

    script.plan(second_fails, second_fails)
    log = train(trl, algorithm, AdjudgeReward(script.address), tmp_path, [{"prompt": CHAT}] * 4)
    for entry, request in zip(log, script.requests, strict=True):
        lengths = [len(one.parts[0].text) for one in request.candidates]
        del lengths[1]
        assert entry["reward"] == pytest.approx(sum(lengths) / 3)
        assert entry["adjudge_reward/failed/refused"] == 0.25


@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
@pytest.mark.filterwarnings("ignore")
def test_waiting_costs_no_step(
    trl: Any, algorithm: str, script: ScriptedService, tmp_path: Path
) -> None:
    script.plan(scripted.good_scores, scripted.fail(grpc.StatusCode.UNAVAILABLE, "NOT_READY"))
    client = RewardClient(script.address, retry=RetryPolicy(max_attempts=1))
    log = train(trl, algorithm, AdjudgeReward(client, on_failure="wait"), tmp_path, PLAIN)
    assert [entry["adjudge_reward/failed/unavailable"] for entry in log] == [0.0, 0.0]
    assert len(script.requests) == 3


@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
@pytest.mark.filterwarnings("ignore")
def test_the_critic_sees_the_pictures_that_the_policy_sees(
    trl: Any, algorithm: str, script: ScriptedService, tmp_path: Path
) -> None:
    rows = [{"prompt": CHAT, "image": str(SEVEN)}] * 4
    reward = AdjudgeReward(script.address, on_failure="raise")
    train(trl, algorithm, reward, tmp_path, rows, seeing_policy)
    assert len(script.requests) == 2
    for request in script.requests:
        assert len(request.candidates) == 4
        kinds = [part.WhichOneof("data") for message in request.prompt for part in message.parts]
        assert kinds == ["image", "text"]
