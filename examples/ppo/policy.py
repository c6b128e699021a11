"""The policy: a LLaVA of a third of a million parameters, in `transformers`' own classes.

Only its eyes are not: a convolutional network that makes one token of a picture, because a vision
transformer would need more pictures than this example has minutes. They are registered with
`transformers`, so that the policy can be trained by any trainer that takes a LLaVA.
"""

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput

from .digits import SIDE, Digits
from .speech import QUESTION, blind_answer, vocabulary

PAD, EOS, IMAGE, UNKNOWN = "<pad>", "<eos>", "<image>", "<unk>"
MAX_ANSWER_TOKENS = 14
WIDTH = 96
UNLIKELY = -1e9  # as a logit; finite, because 0 times the logarithm of 0 is NaN
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{{ '<image>' if p['type'] == 'image' else p['text'] }}"
    "{% endfor %}{% endif %}{% endfor %}"
)


class EyesConfig(PreTrainedConfig):
    model_type = "adjudge_example_eyes"

    def __init__(self, hidden_size: int = WIDTH, image_size: int = SIDE, **options):
        super().__init__(**options)
        self.hidden_size = hidden_size
        self.image_size = image_size


class Eyes(PreTrainedModel):
    """Three convolutions, and all they see as one token."""

    config_class = EyesConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True  # has no attention at all, which any kind suits

    def __init__(self, config: EyesConfig):
        super().__init__(config)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (config.image_size // 4) ** 2, config.hidden_size),
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own let so little of a picture through that the policy hardly saw it.
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, **options) -> BaseModelOutput:
        """(n, 3, 28, 28) to one token, (n, 1, hidden_size)."""
        seen = self.layers(pixel_values)[:, None]
        return BaseModelOutput(last_hidden_state=seen, hidden_states=(seen,))


AutoConfig.register(EyesConfig.model_type, EyesConfig)
AutoModel.register(EyesConfig, Eyes)


def make_processor() -> LlavaProcessor:
    """Words to tokens and pictures to pixels."""
    # A word carries the space before it, so that decoding gives the text back.
    pieces = [piece if piece in "?." else f"▁{piece}" for piece in vocabulary()]
    entries = {piece: index for index, piece in enumerate([PAD, EOS, IMAGE, UNKNOWN, *pieces])}
    words = Tokenizer(models.WordLevel(entries, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    words.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
        padding_side="left",
    )
    tokenizer.chat_template = TEMPLATE
    side = {"height": SIDE, "width": SIDE}
    eyes = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size=side,
        image_mean=[0.13] * 3,  # of light ink on dark paper
        image_std=[0.31] * 3,
    )
    return LlavaProcessor(
        image_processor=eyes,
        tokenizer=tokenizer,
        patch_size=SIDE,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def make_policy(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """With random weights."""
    tokenizer = processor.tokenizer
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=None,
        # As wide as 1 / sqrt(width): the usual 0.02 is for models of thousands, and would let next
        # to nothing of the picture through two layers of a hundred.
        initializer_range=0.1,
        **special,
    )
    config = LlavaConfig(
        vision_config=EyesConfig(),
        text_config=language,
        image_token_index=processor.image_token_id,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **special,
    )
    return LlavaForConditionalGeneration(config)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The one question, and how tokens become texts."""

    ids: Tensor
    """(length,)"""
    processor: LlavaProcessor

    @classmethod
    def of(cls, processor: LlavaProcessor) -> "Prompt":
        return cls(
            processor.tokenizer(IMAGE + QUESTION, return_tensors="pt").input_ids[0], processor
        )

    @property
    def unspeakable(self) -> list[int]:
        """Tokens that are no part of any answer. A picture's place in an answer would be an error:
        there is no picture to put into it."""
        return self.processor.tokenizer.convert_tokens_to_ids([PAD, IMAGE, UNKNOWN])

    def pixels(self, digits: Digits) -> Tensor:
        """(n, 3, 28, 28)"""
        return self.processor.image_processor(list(digits.images), return_tensors="pt").pixel_values

    def encode(self, answers: list[str]) -> Tensor:
        """The answers with their ends, padded at the right: (n, longest)."""
        tokenizer = self.processor.tokenizer
        texts = [answer + EOS for answer in answers]
        return tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").input_ids

    def decode(self, tokens: Tensor) -> list[str]:
        """(n, length) to texts."""
        return self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    def mask(self, tokens: Tensor) -> Tensor:
        """Which tokens of answers count: all up to the first end, that included. (n, length)"""
        ended = tokens == self.processor.tokenizer.eos_token_id
        return ended.cumsum(1) - ended.long() == 0


@torch.no_grad()
def answer(
    policy: LlavaForConditionalGeneration, prompt: Prompt, pixels: Tensor, *, sample: bool = True
) -> Tensor:
    """One answer to each picture, (n, at most 14) tokens; the likeliest at each step, or drawn."""
    ids = prompt.ids.expand(len(pixels), -1)
    tokens = policy.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=MAX_ANSWER_TOKENS,
        suppress_tokens=prompt.unspeakable,
        **{"do_sample": True, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False},
    )
    return tokens[:, ids.shape[1] :]


def run(
    policy: LlavaForConditionalGeneration, prompt: Prompt, pixels: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """What the policy makes of answers: logits of each of their tokens, (n, length, vocabulary),
    and the states that it chose them in, (n, length, width)."""
    ids = torch.cat([prompt.ids.expand(len(tokens), -1), tokens], 1)
    # Pads stand at the right and look at nothing that counts, so that no mask is needed.
    output = policy(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    chosen = slice(len(prompt.ids) - 1, -1)
    logits = output.logits[:, chosen].float()
    logits[..., prompt.unspeakable] = UNLIKELY  # as where the answers were sampled
    return logits, output.hidden_states[-1][:, chosen].float()


def imitate_blindly(
    policy: LlavaForConditionalGeneration, prompt: Prompt, pixels: Tensor, seed: int, steps: int
) -> float:
    """Teaches the policy how answers sound, by answers that have nothing to do with their pictures.

    Returns the last loss, in nats a token.
    """
    rng = random.Random(seed)
    # Not the eyes: all that they could learn here is to be overlooked.
    language = [*policy.model.language_model.parameters(), *policy.lm_head.parameters()]
    optimizer = torch.optim.Adam(language, lr=3e-3)
    loss = torch.tensor(float("nan"))
    for _ in range(steps):
        rows = torch.tensor(rng.sample(range(len(pixels)), min(64, len(pixels))))
        tokens = prompt.encode([blind_answer(rng) for _ in rows])
        logits, _ = run(policy, prompt, pixels[rows], tokens)
        mask = prompt.mask(tokens)
        loss = nn.functional.cross_entropy(logits[mask], tokens[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
