"""OpenRLHF's `serve_rm` on a reward model with a scalar head, in an environment of its own, and
Adjudge on the same: text only, both in bf16, because it takes nothing more exact."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.engine.checkpoint import CHAT_TEMPLATE, added_tokens
from benchmarks.engine.http import free_port, post, wait_until_up
from benchmarks.engine.questions import PROMPT
from benchmarks.engine.served import Served, serving
from benchmarks.engine.shapes import Shape, text_settings
from benchmarks.engine.timing import Seconds, timed
from benchmarks.engine.tokenizer import ADDED, tokenizer_json
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from adjudge_reranker import RewardClient

PYTHON = Path("build/peers/openrlhf/bin/python")
STUBS = {
    "deepspeed/__init__.py": "",
    "flash_attn/__init__.py": "",
    "flash_attn/utils/__init__.py": "",
    "flash_attn/utils/distributed.py": "all_gather = None\n",
    "flash_attn/bert_padding.py": (
        "index_first_axis = pad_input = rearrange = unpad_input = None\n"
    ),
}
"""It imports GPU libraries that serving on a CPU never calls."""


def available(python: Path) -> bool:
    if not python.is_file():
        return False
    finds = "import importlib.util as u; raise SystemExit(not u.find_spec('openrlhf'))"
    return subprocess.run([str(python), "-c", finds]).returncode == 0


def write(directory: Path, shape: Shape) -> Path:
    """A reward model: the text part of a shape, with a scalar head."""
    added = added_tokens(shape)
    torch.manual_seed(0)
    config = Qwen2Config(
        **text_settings(shape, added),
        pad_token_id=added["<|endoftext|>"],
        num_labels=1,
    )
    Qwen2ForSequenceClassification(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_text(tokenizer_json(shape.vocabulary), encoding="utf-8")
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ADDED,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    return directory


@dataclass(frozen=True, slots=True)
class Peer:
    url: str
    pid: int


@contextmanager
def serving_peer(python: Path, checkpoint: Path) -> Iterator[Peer]:
    """With one thread. Raises RuntimeError for a server that does not start."""
    with tempfile.TemporaryDirectory() as folder:
        stubs = Path(folder)
        for name, source in STUBS.items():
            (stubs / name).parent.mkdir(parents=True, exist_ok=True)
            (stubs / name).write_text(source)
        port, log = free_port(), stubs / "log"
        command = [
            str(python), "-m", "openrlhf.cli.serve_rm",
            "--reward.model_name_or_path", str(checkpoint), "--host", "127.0.0.1",
            "--port", str(port), "--ds.attn_implementation", "sdpa", "--data.max_len", "8192",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(stubs), "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            server = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_up(f"{url}/docs", server, log)
            yield Peer(url, server.pid)
        finally:
            server.terminate()
            server.wait()


def serving_ours(checkpoint: Path) -> AbstractContextManager[Served]:
    return serving("--model", str(checkpoint), "--dtype", "bfloat16")


def theirs(peer: Peer, texts: Sequence[str]) -> Seconds:
    """All in one request, as the trainer of version 0.9 sent them; since, it sends one each."""
    turns = [
        f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"
        for text in texts
    ]
    body: dict[str, object] = {"query": turns}
    return timed(lambda: post(f"{peer.url}/get_reward", body), pids=[peer.pid])


def ours(served: Served, client: RewardClient, texts: Sequence[str]) -> Seconds:
    def ask() -> None:
        if None in client.score(PROMPT, texts, timeout=600).rewards:
            raise RuntimeError("not all were judged")

    return timed(ask, pids=[served.pid])
