"""Whether all results of a client are those of one model, for each `model` that it asks for."""

import grpc

from adjudge_reranker.errors import ServerFault
from adjudge_reranker.types import Provenance


class OneModel:
    """Remembers who answered. Safe to share between threads.

    A model is the same by its name, for weights move and the fingerprint with them, or by its
    fingerprint, for hosts may have their copies in directories of different names. Without a lock
    on purpose, as `channel.Connections` is: every dictionary operation is one step.
    """

    def __init__(self) -> None:
        self._answered: dict[str, dict[str, str]] = {}
        """The latest fingerprint by each name that the model went by, by what was asked for; empty
        is the default."""

    def check(self, asked: str, provenance: Provenance) -> None:
        """To be called with each result. Raises ServerFault if another model than before gave it,
        as endpoints that are not alike do."""
        actual, fingerprint = provenance.model, provenance.model_fingerprint
        if not actual:
            return
        names = self._answered.setdefault(asked, {actual: fingerprint})
        if actual not in names and fingerprint not in list(names.values()):
            expected = next(iter(names))
            raise ServerFault(
                f"this client's results are from different models: {expected} before, now {actual}."
                " Endpoints must serve the same model; ask for one by its name, or make a new"
                " client if it was meant to change",
                code=grpc.StatusCode.FAILED_PRECONDITION,
                metadata={"field": "model", "expected": expected, "actual": actual},
            )
        names[actual] = fingerprint
