"""Tokens and certificates of this test run."""

import secrets
from pathlib import Path

import pytest

from tests.certificates import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def secret_file(path: Path, *tokens: str) -> Path:
    """Replaced in one step, like a file that a running server reads should be."""
    fresh = path.with_name("fresh")
    fresh.touch(0o600)
    fresh.write_text("\n".join(["# made by a test", *tokens]))
    fresh.replace(path)
    return path


def new_token() -> str:
    return secrets.token_urlsafe()
