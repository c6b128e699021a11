"""Promises of the packages themselves: fresh stubs, light imports, one distribution."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROTO = ROOT / "proto" / "adjudge" / "v1"
GENERATOR = ROOT / ".venv-proto" / "bin"


def test_the_stubs_are_what_the_contract_generates(tmp_path: Path) -> None:
    if not (GENERATOR / "python").exists():
        if os.environ.get("CI"):
            pytest.fail("no generator: run the tests with `make test`")
        pytest.skip("no generator: `make .venv-proto/installed`")
    subprocess.run(
        [GENERATOR / "python", ROOT / "proto" / "generate.py", tmp_path],
        env=os.environ | {"PATH": f"{GENERATOR}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )
    generated = {p.name: p.read_bytes() for p in (tmp_path / "adjudge" / "v1").iterdir()}
    committed = {name: (PROTO / name).read_bytes() for name in generated}
    assert len(generated) == 8
    assert committed == generated


HEAVY = {
    "torch",
    "transformers",
    "typer",
    "rich",
    "scipy",
    "matplotlib",
    "pyarrow",
    "adjudge_server",
}


def imported_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after a statement ran in a fresh interpreter."""
    program = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_the_client_imports_neither_torch_nor_transformers() -> None:
    assert imported_by("import torch") & HEAVY  # the check can fail
    loaded = imported_by("import adjudge_reranker")
    assert "adjudge_reranker" in loaded and "grpc" in loaded
    assert not loaded & HEAVY


def test_a_server_on_the_fake_critic_imports_neither_torch_nor_transformers() -> None:
    loaded = imported_by(
        "from adjudge_server import config, loading, serve;"
        " loading.load_critic(config.Config(critic='fake'))"
    )
    assert "adjudge_server" in loaded
    assert not loaded & {"torch", "transformers"}


def test_committed_files_are_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if name}
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert weights < 10_000_000
    assert max(size for name, size in sizes.items() if not name.endswith(".safetensors")) < 2**20
