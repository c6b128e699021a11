import pytest

from adjudge_server.critics.fake import FakeCritic
from tests.contract import CriticContract


@pytest.fixture(scope="module")
def critic() -> FakeCritic:
    return FakeCritic()


class TestFakeCritic(CriticContract):
    tolerance = 1e-12
