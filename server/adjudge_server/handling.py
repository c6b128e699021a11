"""What all handlers of RPCs do alike: every exception becomes a status."""

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc.aio

from adjudge_server import wire
from adjudge_server.errors import AdjudgeError, as_failure
from adjudge_server.observing.exchange import failed
from adjudge_server.observing.request_ids import HEADER

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Req = TypeVar("Req")
Res = TypeVar("Res")
Service = TypeVar("Service")


def unary(
    handler: Callable[[Service, Req, Context], Awaitable[Res]],
) -> Callable[[Service, Req, Context], Awaitable[Res]]:
    """Turns every exception of a handler into a status; a handler never ends without one."""

    @wraps(handler)
    async def answer(service: Service, request: Req, context: Context) -> Res:
        try:
            return await handler(service, request, context)
        except Exception as error:
            await abort(context, error)

    return answer


async def abort(context: Context, error: Exception) -> NoReturn:
    if not isinstance(error, AdjudgeError):
        logger.exception("an error that is ours")
        error = as_failure(error)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", wire.write_error(error).SerializeToString())
    ]
    if request_id := failed(error):
        trailers.append((HEADER, request_id))
    await context.abort(error.code, error.message, trailing_metadata=tuple(trailers))
