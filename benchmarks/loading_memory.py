"""Memory and time of loading a sharded original checkpoint, against its size.

A checkpoint of 500 MB in the layout of `lmms-lab/llava-critic-7b` is generated with random weights,
then loaded in a process of its own. The floor is the size of the weights: they have to be
somewhere. Anonymous memory is sampled while it loads; what the page cache holds does not count.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

TINY = Path(__file__).parent.parent / "tests" / "golden" / "data" / "checkpoint"
HIDDEN, INTERMEDIATE, KEYS, LAYERS, VOCABULARY = 1024, 4096, 512, 15, 1024
VISION, VISION_INTERMEDIATE, VISION_LAYERS = 768, 1536, 4
LIMIT = 1.3
MEGABYTE = 1e6


def tensors() -> dict[str, tuple[int, ...]]:
    """Shapes by the original's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "model.image_newline": (HIDDEN,),
        "model.mm_projector.0.weight": (HIDDEN, VISION),
        "model.mm_projector.0.bias": (HIDDEN,),
        "model.mm_projector.2.weight": (HIDDEN, HIDDEN),
        "model.mm_projector.2.bias": (HIDDEN,),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}self_attn.q_proj.bias": (HIDDEN,),
            f"{layer}self_attn.k_proj.weight": (KEYS, HIDDEN),
            f"{layer}self_attn.k_proj.bias": (KEYS,),
            f"{layer}self_attn.v_proj.weight": (KEYS, HIDDEN),
            f"{layer}self_attn.v_proj.bias": (KEYS,),
            f"{layer}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{layer}mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{layer}mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
            f"{layer}input_layernorm.weight": (HIDDEN,),
            f"{layer}post_attention_layernorm.weight": (HIDDEN,),
        }
    tower = "model.vision_tower.vision_tower.vision_model."
    shapes |= {
        f"{tower}embeddings.patch_embedding.weight": (VISION, 3, 14, 14),
        f"{tower}embeddings.patch_embedding.bias": (VISION,),
        f"{tower}embeddings.position_embedding.weight": (729, VISION),
        f"{tower}post_layernorm.weight": (VISION,),
        f"{tower}post_layernorm.bias": (VISION,),
    }
    for i in range(VISION_LAYERS):
        layer = f"{tower}encoder.layers.{i}."
        sizes = {
            **{f"self_attn.{p}_proj": (VISION, VISION) for p in ("q", "k", "v", "out")},
            "mlp.fc1": (VISION_INTERMEDIATE, VISION),
            "mlp.fc2": (VISION, VISION_INTERMEDIATE),
            "layer_norm1": (VISION,),
            "layer_norm2": (VISION,),
        }
        for name, size in sizes.items():
            shapes[f"{layer}{name}.weight"] = size
            shapes[f"{layer}{name}.bias"] = size[:1]
    return shapes


def write(directory: Path, shards: int, dtype: torch.dtype) -> int:
    """Writes the checkpoint and returns the bytes of its weights."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY / name, directory / name)
    config = json.loads((TINY / "config.json").read_text()) | {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "mm_hidden_size": VISION,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes = list(tensors().items())
    weight_map = {}
    total = 0
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        held = {name: torch.randn(shape).to(dtype) for name, shape in shapes[shard::shards]}
        save_file(held, directory / file, {"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
        total += sum(tensor.nbytes for tensor in held.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell RssAnon")


def load(directory: Path, dtype: str) -> None:
    """Loads, and prints bytes above those after the imports: at the peak, and at the end."""
    from adjudge_server.critics import llava_loading

    before, peak, done = anonymous(), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous())

    sampler = threading.Thread(target=sample)
    sampler.start()
    began = time.perf_counter()
    critic = llava_loading.load(
        directory, name="generated", device="cpu", dtype=dtype, max_input_tokens=4096
    )
    seconds = time.perf_counter() - began
    done.set()
    sampler.join()
    assert critic.card.dtype == dtype
    print(json.dumps({"peak": peak - before, "end": anonymous() - before, "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--load", type=Path, help="only load this one (what the parent runs)")
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.load, arguments.dtype)
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder), arguments.shards, getattr(torch, arguments.dtype))
        command = [sys.executable, __file__, "--load", folder, "--dtype", arguments.dtype]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = json.loads(said.splitlines()[-1])
    print(f"weights                     {size / MEGABYTE:8.0f} MB in {arguments.shards} shards")
    for name in ("peak", "end"):
        ratio = measured[name] / size
        print(
            f"anonymous memory, {name:<8}  {measured[name] / MEGABYTE:8.0f} MB  {ratio:.2f} x size"
        )
    print(f"time, fingerprint included  {measured['seconds']:8.1f} s")
    print(f"limit {LIMIT} x: {'met' if measured['peak'] < LIMIT * size else 'MISSED'}")


if __name__ == "__main__":
    main()
