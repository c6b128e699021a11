"""The critic: a LLaVA-OneVision of two million parameters, and how its parts are put together.

The modules are those of `LlavaOnevisionForConditionalGeneration`; only the assembly of the input is
our own, because many responses share one picture and one prompt here.
"""

import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config

from embedded_critic.attention import NAME as TREE_ATTENTION
from embedded_critic.attention import Layout
from embedded_critic.tokenizer import VOCABULARY
from embedded_critic.tower import tower_config
from embedded_critic.views import GEOMETRY, TILE

HIDDEN = 128
LAYERS = 5
WORTH_LAYER = 3
"""After this many layers a response's worth must be readable where the response ends."""


def build_model(image_id: int, end_id: int) -> LlavaOnevisionForConditionalGeneration:
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=448,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=None,
    )
    config = LlavaOnevisionConfig(
        text_config=text,
        vision_config=tower_config(),
        image_token_index=image_id,
        video_token_index=VOCABULARY,  # no such token: there are no videos
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        image_grid_pinpoints=[[TILE, TILE]],
        tie_word_embeddings=True,
    )
    return LlavaOnevisionForConditionalGeneration(config)


class Critic(nn.Module):
    """Forward passes over packed rows, with a second head that is for training only."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration) -> None:
        super().__init__()
        self.llava = model
        self.worth = nn.Linear(HIDDEN, 1)
        model.model.language_model.set_attn_implementation(TREE_ATTENTION)

    def image_tokens(self, features: Tensor) -> Tensor:
        """(n, 2, 16, hidden) tower features to (n * 32 + 1, hidden); the newline comes last."""
        inner = self.llava.model
        projected = inner.multi_modal_projector(features).flatten(0, 2)
        return torch.cat([projected, inner.image_newline[None]])

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        image_rows: Tensor,
        image_places: Tensor,
        image_tokens: Tensor,
        layout: Layout,
    ) -> tuple[Tensor, Tensor]:
        """Final and middle hidden states, (rows, tokens, hidden) each."""
        inner = self.llava.model
        embeds = inner.language_model.embed_tokens(ids)
        flat = embeds.flatten(0, 1).index_copy(0, image_places, image_tokens[image_rows])
        outputs = inner.language_model(
            inputs_embeds=flat.view_as(embeds),
            attention_mask={"full_attention": layout},
            position_ids=positions,
            use_cache=False,
            output_hidden_states=True,
        )
        return outputs.last_hidden_state, outputs.hidden_states[WORTH_LAYER]

    def logits(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.llava.lm_head(hidden)
        return scores


def image_token_rows(index: int, kept: tuple[int, int]) -> list[int]:
    """Rows of `Critic.image_tokens` that make up picture `index`; -1 stands for the newline.

    All patches of the stretched tile, then the fitted tile without its padding, a newline per row.
    """
    per_tile = GEOMETRY.patches * GEOMETRY.patches
    base = index * 2 * per_tile
    rows = list(range(base, base + per_tile))
    top, left = (GEOMETRY.patches - kept[0]) // 2, (GEOMETRY.patches - kept[1]) // 2
    for y in range(top, top + kept[0]):
        start = base + per_tile + y * GEOMETRY.patches + left
        rows += [*range(start, start + kept[1]), -1]
    return rows


def save_checkpoint(critic: Critic, folder: Path) -> None:
    """Writes config, bfloat16 weights and preprocessing as transformers does."""
    folder.mkdir(parents=True, exist_ok=True)
    source = critic.llava
    # A copy, its config too: transformers keeps dtype and attention in there.
    twin = LlavaOnevisionForConditionalGeneration(copy.deepcopy(source.config))
    twin.load_state_dict(source.state_dict())
    twin.to(torch.bfloat16)
    twin.set_attn_implementation("sdpa")
    twin.save_pretrained(folder)
    preprocessing = {
        "crop_size": None,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": [[TILE, TILE]],
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"height": TILE, "width": TILE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
    for file in folder.iterdir():  # safetensors writes for its owner alone
        file.chmod(0o644)
