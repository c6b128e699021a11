"""All of grpc.health.v1.

gRPC's own servicer has no answer to List but an exception, and holds a lock while a watcher takes
what it is sent: one that does not read would keep everybody from learning that anything changed,
and the server from draining.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge_server.handling import Context
from adjudge_server.slow_readers import taken_within

Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it is not typed
    """Used from one event loop. `write_seconds` is how long a watcher may take to receive a status
    before its call is ended."""

    def __init__(self, write_seconds: float) -> None:
        self._write_seconds = write_seconds
        self._statuses: dict[str, Any] = {}
        """In the order in which services got one."""
        self._watchers: set[asyncio.Event] = set()
        self._is_ending = False

    def set(self, service: str, is_serving: bool) -> None:
        """Waits for nobody. After `end`, nothing changes any more."""
        if self._is_ending:
            return
        self._statuses[service] = Response.SERVING if is_serving else Response.NOT_SERVING
        self._tell()

    def end(self) -> None:
        """From now on nothing is served."""
        self._is_ending = True
        self._statuses = dict.fromkeys(self._statuses, Response.NOT_SERVING)
        self._tell()

    async def Check(self, request: Any, context: Context) -> Any:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return Response(status=status)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        changed = asyncio.Event()
        self._watchers.add(changed)
        last = None
        try:
            while True:
                changed.clear()
                status = self._statuses.get(request.service, Response.SERVICE_UNKNOWN)
                if status != last:
                    with taken_within(self._write_seconds, context):
                        yield Response(status=status)
                    last = status
                elif self._is_ending:
                    return  # or the server would wait for its watchers until its grace period ends
                else:
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    async def List(self, request: Any, context: Context) -> Any:
        statuses = {name: Response(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    def _tell(self) -> None:
        for changed in self._watchers:
            changed.set()
