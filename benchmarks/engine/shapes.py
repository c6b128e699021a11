"""Sizes of the models that are measured. Weights are random: time does not depend on them."""

from dataclasses import dataclass
from typing import Any

from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig


@dataclass(frozen=True, slots=True)
class Shape:
    """A LLaVA-OneVision."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_intermediate: int
    tile: int
    patch: int
    grid: int
    """Tiles along a side of the largest grid."""

    @property
    def linear_flops(self) -> int:
        """Of one token in all layers, attention left out: two for each weight."""
        head = self.hidden // self.heads
        projections = self.hidden * head * (2 * self.heads + 2 * self.kv_heads)
        return 2 * self.layers * (projections + 3 * self.hidden * self.intermediate)

    @property
    def pair_flops(self) -> int:
        """Of one token attending to one, in all layers: a product for the score, and one for the
        sum."""
        return 4 * self.layers * self.hidden

    @property
    def head_flops(self) -> int:
        """Of the vocabulary's logits at one place."""
        return 2 * self.hidden * self.vocabulary


MEASURED = Shape(512, 8, 8, 2, 1408, 8192, 384, 6, 6, 1536, tile=384, patch=14, grid=6)
"""42.6 million parameters: as much as two cores can run in every way there is to score."""
LLAVA_CRITIC_7B = Shape(
    3584, 28, 28, 4, 18944, 152064, 1152, 26, 16, 4304, tile=384, patch=14, grid=6
)
"""lmms-lab/llava-critic-7b: Qwen2-7B behind SigLIP-so400m."""
EMBEDDED = Shape(128, 5, 4, 2, 448, 2048, 128, 4, 4, 384, tile=56, patch=14, grid=1)
"""The language model of the critic that ships inside the package; see its config.json."""
TINY = Shape(32, 2, 4, 2, 64, 1152, 32, 2, 4, 64, tile=56, patch=14, grid=2)
"""For tests of the code."""


def configuration(shape: Shape, added: dict[str, int]) -> LlavaOnevisionConfig:
    """`added`: ids of the tokenizer's added tokens."""
    sides = [shape.tile * (i + 1) for i in range(shape.grid)]
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=shape.vision_hidden,
            intermediate_size=shape.vision_intermediate,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=shape.vision_heads,
            image_size=shape.tile,
            patch_size=shape.patch,
            vision_use_head=False,
        ).to_dict(),
        text_config=Qwen2Config(
            **text_settings(shape, added),
            tie_word_embeddings=False,
        ).to_dict(),
        image_token_index=added["<image>"],
        video_token_index=added["<video>"],
        image_grid_pinpoints=[[height, width] for height in sides for width in sides],
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )


def text_settings(shape: Shape, added: dict[str, int]) -> dict[str, Any]:
    """Of its language model, whatever head that has."""
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 32768,
        "eos_token_id": added["<|im_end|>"],
    }
