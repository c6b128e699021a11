"""The RPCs that change a running server. Served only with --enable-admin."""

from collections.abc import Sequence
from pathlib import Path

from adjudge.v1 import admin_pb2 as pb
from adjudge.v1 import admin_pb2_grpc as pb_grpc
from adjudge_server import wire
from adjudge_server.background import in_daemon_thread
from adjudge_server.handling import Context, unary
from adjudge_server.models import Models
from adjudge_server.weight_dirs import allowed_directory


class AdminService(pb_grpc.AdminServiceServicer):
    """Answers NOT_READY until the models are loaded."""

    def __init__(self, models: Models, roots: Sequence[Path]) -> None:
        """`roots`: where weights may come from."""
        self._models = models
        self._roots = roots

    @unary
    async def LoadWeights(
        self, request: pb.LoadWeightsRequest, context: Context
    ) -> pb.LoadWeightsResponse:
        mover = self._models.mover(request.model)
        # Off the loop: the directory may lie on a network.
        directory = await in_daemon_thread(lambda: allowed_directory(request.path, self._roots))
        expected = request.expected_epoch if request.HasField("expected_epoch") else None
        moved = await mover.move(directory, expected)
        return pb.LoadWeightsResponse(
            weights_epoch=moved.judge.weights_epoch,
            model_fingerprint=moved.judge.card.fingerprint,
            read_duration=wire.write_duration(moved.read_seconds),
            pause_duration=wire.write_duration(moved.pause_seconds),
        )
