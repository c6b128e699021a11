"""All of grpc.health.v1: the servicer that comes with gRPC offers List, and has no answer to it but
an exception."""

from typing import Any

from grpc_health.v1 import health, health_pb2

from adjudge_server.handling import Context


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # it is not typed
    """Also answers List, of which older versions of grpcio-health-checking do not know."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, None] = {}
        """Of what has a status, in the order in which they got it."""

    async def set(self, service: str, status: Any) -> None:
        self._names[service] = None
        await super().set(service, status)

    async def List(self, _: Any, context: Context) -> Any:
        about = health_pb2.HealthCheckRequest
        statuses = {name: await self.Check(about(service=name), context) for name in self._names}
        return health_pb2.HealthListResponse(statuses=statuses)
