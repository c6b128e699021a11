"""Whether all results of a client are those of one model, for each `model` that it asks for."""

import grpc

from adjudge_reranker.errors import ServerFault
from adjudge_reranker.types import Provenance


class OneModel:
    """Remembers who answered first. Safe to share between threads.

    By the model's name alone: weights move, and the fingerprint with them. Without a lock on
    purpose, as `channel.Connections` is: one dictionary operation is all that is done.
    """

    def __init__(self) -> None:
        self._answered: dict[str, str] = {}
        """Names of the models that answered, by what was asked for; empty is the default."""

    def check(self, asked: str, provenance: Provenance) -> None:
        """To be called with each result. Raises ServerFault if another model than before gave it,
        as endpoints that are not alike do."""
        actual = provenance.model
        expected = self._answered.setdefault(asked, actual) if actual else actual
        if actual != expected:
            raise ServerFault(
                f"this client's results are from different models: {expected} before, now {actual}."
                " Endpoints must serve the same model; ask for one by its name, or make a new"
                " client if it was meant to change",
                code=grpc.StatusCode.FAILED_PRECONDITION,
                metadata={"field": "model", "expected": expected, "actual": actual},
            )
