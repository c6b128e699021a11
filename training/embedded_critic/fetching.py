"""Pinned archives from the package registries, fetched once."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path


def fetch_wheel(cache: Path, name: str, requirement: str, sha256: str) -> Path:
    """The wheel `name` in `cache`, downloaded with pip the first time.

    Raises ValueError if what arrives is not the pinned file.
    """
    wheel = cache / name
    if wheel.exists():
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder]
        subprocess.run([*command, requirement], check=True, capture_output=True)
        [archive] = Path(folder).glob("*.whl")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{requirement}: sha256 is {found}, not {sha256}")
        return archive.rename(wheel)
