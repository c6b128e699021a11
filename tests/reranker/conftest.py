"""Fixtures of the client's tests. `address` is a real server with the fake critic."""

from collections.abc import Iterator

import pytest

from adjudge_reranker import RetryPolicy, RewardClient
from tests.reranker.scripted import ScriptedService, serving


@pytest.fixture
def script() -> Iterator[ScriptedService]:
    """A server whose behaviour the test plans."""
    with serving() as service:
        yield service


@pytest.fixture
def scripted_client(script: ScriptedService) -> Iterator[RewardClient]:
    """A client of that server, which does not pause longer between attempts than it is asked to."""
    with RewardClient(script.address, retry=RetryPolicy(0.0, 0.0), timeout=20.0) as client:
        yield client


@pytest.fixture
def client(address: str) -> Iterator[RewardClient]:
    with RewardClient(address) as client:
        yield client
