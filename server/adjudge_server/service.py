"""The RPC handlers: each follows one request through its six stages.

1 the handler            protobuf request, read by `wire`
2 asking, queries        → one Query per candidate or ordered pair; malformed ones end here
3 judge.prepare          → tokens and tiles, off the loop; too-long ones end here
4 judge.read → batcher   → the queue; a full one ends here
5 critic.forward         → log-probabilities, on the model's thread
6 readout                → reward or comparison → protobuf response
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1 import reward_pb2_grpc as pb_grpc
from adjudge_server.asking import Asker
from adjudge_server.caches import CacheUse
from adjudge_server.comparing import compare
from adjudge_server.config import Config
from adjudge_server.critiquing import Critiques
from adjudge_server.description import describe
from adjudge_server.ensembles import Ensemble
from adjudge_server.handling import Context, abort, unary
from adjudge_server.judge import Judge
from adjudge_server.models import Models
from adjudge_server.scoring import score, score_together
from adjudge_server.slow_readers import taken_within


class RewardService(pb_grpc.RewardServiceServicer):
    """Answers with whatever judges `models` has at the time."""

    def __init__(self, config: Config, models: Models) -> None:
        self._config = config
        self._models = models
        self._asker = Asker(config)
        self._critiques = Critiques(config, self._asker, models)

    @property
    def judge(self) -> Judge[Any] | None:
        """Of the first critic; None while it has none."""
        return self._models.critics[0].judge

    @property
    def pictures(self) -> CacheUse:
        """Of those that are retained to be named. From any thread."""
        return self._asker.pictures

    @property
    def open_critiques(self) -> int:
        """That are being written. From any thread."""
        return self._critiques.num_open

    @unary
    async def ScoreCandidates(
        self, request: pb.ScoreCandidatesRequest, context: Context
    ) -> pb.ScoreCandidatesResponse:
        found = self._models.find(request.model)
        if isinstance(found, Ensemble):
            return await score_together(self._asker, self._models, found, request, context)
        return await score(self._asker, self._models, found, request, context)

    @unary
    async def CompareCandidates(
        self, request: pb.CompareCandidatesRequest, context: Context
    ) -> pb.CompareCandidatesResponse:
        return await compare(self._asker, self._models, request, context)

    async def CritiqueCandidates(
        self, request: pb.CritiqueCandidatesRequest, context: Context
    ) -> AsyncIterator[pb.CritiqueCandidatesResponse]:
        try:
            async with aclosing(self._critiques.write(request, context)) as responses:
                async for response in responses:
                    with taken_within(self._config.write_seconds, context):
                        yield response
        except Exception as error:
            await abort(context, error)

    @unary
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(
            model=describe(self._models, request.model), served_models=self._models.names
        )
