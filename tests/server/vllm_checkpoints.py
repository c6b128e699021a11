"""Small critics that vLLM can run: its attention on a CPU wants heads of 64."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent.parent / "golden" / "data" / "checkpoint"
TOKENIZER = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 128, 256, 2, 1024
VISION, VISION_INTERMEDIATE, TILE, PATCH = 128, 256, 56, 14
VISION_HEADS = 2
SPREAD = 0.15
"""Of the weights: enough that answers are not all equally probable."""

TEMPLATES = '''
[[template]]
name = "tiny/pointwise"
version = 1
kind = "pointwise"
text = """
Question: [{prompt}]
The LMM response: [{candidate}]
ASSISTANT:
"""
opening = "Score: "
scores = { lowest = 0, highest = 100 }
terminators = [".", "\\n", "]"]
min_opening_mass = -1000.0
min_valid_mass = 0.0

[[template]]
name = "tiny/pairwise"
version = 1
kind = "pairwise"
text = """
Question: [{prompt}]
The first response: [{first}]
The second response: [{second}]
ASSISTANT:
"""
opening = ""
terminators = []
min_opening_mass = -1000.0
min_valid_mass = 0.0

[template.verdicts]
first = ["The better response: [first", "The better response: [1"]
second = ["The better response: [second", "The better response: [2"]
tie = ["Two responses are equally good"]
'''
"""Any mass will do: these critics are in nobody's format."""


def write_original(directory: Path) -> Path:
    """A random LLaVA-Critic in the original layout, with padding rows in its head."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        shutil.copyfile(GOLDEN / name, directory / name)
    config = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    sides = [TILE * i for i in (1, 2, 3)]
    config |= {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // 64,
        "num_key_value_heads": 1,
        "mm_hidden_size": VISION,
        "mm_vision_tower": f"tiny/siglip-patch{PATCH}-{TILE}",
        "image_grid_pinpoints": [[width, height] for width in sides for height in sides],
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(0)
    save_file(_tensors(), directory / "model.safetensors", {"format": "pt"})
    return directory


def _tensors() -> dict[str, torch.Tensor]:
    tower = "model.vision_tower.vision_tower.vision_model."
    shapes = {
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.image_newline": (HIDDEN,),
        "model.norm.weight": (HIDDEN,),
        "model.mm_projector.0.weight": (HIDDEN, VISION),
        "model.mm_projector.0.bias": (HIDDEN,),
        "model.mm_projector.2.weight": (HIDDEN, HIDDEN),
        "model.mm_projector.2.bias": (HIDDEN,),
        f"{tower}embeddings.patch_embedding.weight": (VISION, 3, PATCH, PATCH),
        f"{tower}embeddings.patch_embedding.bias": (VISION,),
        f"{tower}embeddings.position_embedding.weight": ((TILE // PATCH) ** 2, VISION),
        f"{tower}post_layernorm.weight": (VISION,),
        f"{tower}post_layernorm.bias": (VISION,),
    }
    for layer in range(LAYERS):
        shapes |= _decoder_layer(f"model.layers.{layer}.")
        shapes |= _vision_layer(f"{tower}encoder.layers.{layer}.")
    tensors = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape) * SPREAD
        tensors[name] = tensor + 1 if "norm" in name and name.endswith("weight") else tensor
    return tensors


def _decoder_layer(layer: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{layer}input_layernorm.weight": (HIDDEN,),
        f"{layer}post_attention_layernorm.weight": (HIDDEN,),
        f"{layer}mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{layer}mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{layer}mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        f"{layer}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        f"{layer}self_attn.q_proj.bias": (HIDDEN,),
        f"{layer}self_attn.k_proj.weight": (64, HIDDEN),
        f"{layer}self_attn.k_proj.bias": (64,),
        f"{layer}self_attn.v_proj.weight": (64, HIDDEN),
        f"{layer}self_attn.v_proj.bias": (64,),
        f"{layer}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    }


def _vision_layer(layer: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{layer}mlp.fc1.weight": (VISION_INTERMEDIATE, VISION),
        f"{layer}mlp.fc1.bias": (VISION_INTERMEDIATE,),
        f"{layer}mlp.fc2.weight": (VISION, VISION_INTERMEDIATE),
        f"{layer}mlp.fc2.bias": (VISION,),
    }
    for norm in ("layer_norm1", "layer_norm2"):
        shapes |= {f"{layer}{norm}.weight": (VISION,), f"{layer}{norm}.bias": (VISION,)}
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes[f"{layer}self_attn.{projection}.weight"] = (VISION, VISION)
        shapes[f"{layer}self_attn.{projection}.bias"] = (VISION,)
    return shapes
