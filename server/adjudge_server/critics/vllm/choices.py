"""What a choice of an engine's answer says of itself: how it ended, and by which weights."""

from collections.abc import Mapping
from typing import Any

from adjudge_server.critics.vllm.engine import Away

FINISHED = ("stop", "length")
"""Any other end, `abort` for one, is that of a request which the engine gave up: it does so where
it is paused, or put to sleep."""


def check_finished(choice: Mapping[str, Any]) -> None:
    """Raises Away where the engine gave it up, KeyError where it does not say."""
    if choice["finish_reason"] not in FINISHED:
        raise Away("the engine gave the request up")


def weights_of(choice: Mapping[str, Any]) -> str | None:
    """What the engine calls the weights that all of it comes from; None where it has no name for
    them. Raises Away where they moved meanwhile."""
    names = {span["version"] for span in choice.get("weight_versions") or ()}
    if len(names) > 1:
        raise Away("the engine's weights moved meanwhile")
    return next(iter(names), None)
