"""A server of its own process whose fake critic hangs or takes its time where a candidate says so.

python -m tests.server.faulty [the flags of adjudge-server]
"""

import time
from collections.abc import Sequence

from adjudge_server.__main__ import main
from adjudge_server.critic import Reading
from adjudge_server.critics.fake import FakeCritic, FakePrepared

SECONDS = {"hang": 3600.0, "slow": 2.0}
"""What a pass takes that holds such a candidate."""

honest = FakeCritic.forward


def forward(self: FakeCritic, batch: Sequence[FakePrepared]) -> list[Reading]:
    for item in batch:
        for candidate in item.query.candidates:
            time.sleep(SECONDS.get(candidate, 0.0))
    return honest(self, batch)


if __name__ == "__main__":
    FakeCritic.forward = forward  # type: ignore[method-assign]
    main()
