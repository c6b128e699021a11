"""The interceptor that every call passes, also those of methods that do not exist."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health

from adjudge.v1 import admin_pb2
from adjudge_server.access.reloading import Reloaded
from adjudge_server.access.rules import Settings
from adjudge_server.access.tokens import Tokens, token_file
from adjudge_server.errors import Unauthenticated
from adjudge_server.handling import Context, abort

ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
SCHEME = "bearer"

MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class Gate(grpc.aio.ServerInterceptor):
    """Lets a call through that carries a token for its service, as `authorization: Bearer …`.

    Admin methods take admin tokens only, all others the tokens only; a token that is in both files
    opens both. Health is open, or opened by either. Reflection is like any other service.
    """

    def __init__(
        self,
        tokens: Reloaded[Tokens] | None,
        admin_tokens: Reloaded[Tokens] | None,
        *,
        closed_health: bool,
    ) -> None:
        self._tokens = tokens
        self._admin_tokens = admin_tokens
        self._closed_health = closed_health

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        service = handler_call_details.method.strip("/").partition("/")[0]
        keys = self._keys(service)
        if keys:
            token = _presented(handler_call_details.invocation_metadata or ())
            if token is None or not any([tokens.get().holds(token) for tokens in keys]):
                return _ADMIN_REFUSAL if keys == [self._admin_tokens] else _REFUSAL
        return await continuation(handler_call_details)

    def _keys(self, service: str) -> Sequence[Reloaded[Tokens]]:
        """What opens a service; nothing if it is open."""
        if service == health.SERVICE_NAME:
            kinds = [self._tokens, self._admin_tokens] if self._closed_health else []
        elif service == ADMIN and self._admin_tokens is not None:
            kinds = [self._admin_tokens]
        else:
            kinds = [self._tokens]
        return [tokens for tokens in kinds if tokens is not None]


def gates(settings: Settings) -> list[grpc.aio.ServerInterceptor]:
    """The interceptor, if there are tokens at all. Raises ValueError for a bad file of them."""
    if settings.tokens is None and settings.admin_tokens is None:
        return []
    tokens = _token_file(settings.tokens, "--tokens")
    admin_tokens = _token_file(settings.admin_tokens, "--admin-tokens")
    return [Gate(tokens, admin_tokens, closed_health=settings.closed_health)]


def _token_file(path: Path | None, flag: str) -> Reloaded[Tokens] | None:
    return None if path is None else token_file(path, flag)


def _presented(metadata: Iterable[tuple[str, str | bytes]]) -> bytes | None:
    """The one token of a call; of several, none counts."""
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    scheme, _, token = values[0].partition(" ")
    return token.strip().encode() if scheme.lower() == SCHEME else None


def _refusal(message: str, needs: str) -> MaybeHandler:
    async def refuse(_: object, context: Context) -> None:
        await abort(context, Unauthenticated(message, needs=needs))

    # As a stream, whatever the method is: the request of a stranger is not even read.
    return grpc.stream_stream_rpc_method_handler(refuse)


_HOW = "clients take one as token=, or from ADJUDGE_TOKEN or ADJUDGE_TOKEN_FILE"
_ADMIN_HOW = "clients take one as token=, or from ADJUDGE_ADMIN_TOKEN or ADJUDGE_ADMIN_TOKEN_FILE"
_REFUSAL = _refusal(f"the call carries no token that this server knows; {_HOW}", "token")
_ADMIN_REFUSAL = _refusal(
    f"the call carries no admin token of this server; {_ADMIN_HOW}", "admin token"
)
