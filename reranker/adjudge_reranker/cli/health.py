"""The command `health`: what supervisors and probes ask, where they cannot speak gRPC themselves,
with TLS or with a token."""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge.v1 import reward_pb2
from adjudge_reranker.access import Access, resolve_access
from adjudge_reranker.addresses import checked_addresses
from adjudge_reranker.channel import DEFAULT_MAX_MESSAGE_BYTES, channel_options
from adjudge_reranker.cli.credentials import given
from adjudge_reranker.cli.judging import ExitCode, complain
from adjudge_reranker.cli.options import SERVER, Server
from adjudge_reranker.errors import RequestRefused, RewardError, error_from_rpc

SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name


def health(
    service: Annotated[
        str,
        typer.Option(
            help='Whose health; "" is that of the server as a whole, '
            f"{SERVICE}/NAME of one of its models."
        ),
    ] = SERVICE,
    server: Server = SERVER,
    timeout: Annotated[float, typer.Option(min=0.001, max=86_400, help="Seconds.")] = 5.0,
) -> None:
    """Does the server serve? Asks once: exit code 0 for SERVING, 3 for anything else that a server
    may be in, 4 if it did not answer in time, 2 for a service that it does not have, a token that
    it does not take, or a server whose certificate is not trusted here."""
    try:
        access = resolve_access(checked_addresses(server), **given().arguments())
        status = _ask(server, access, service, timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except grpc.RpcError as error:
        told = _told(error, service)
        complain(f"{server}: {told}")
        raise typer.Exit(_EXIT_CODES.get(told.code, ExitCode.UNREACHABLE)) from error
    print(status)
    raise typer.Exit(ExitCode.JUDGED if status == "SERVING" else ExitCode.UNREACHABLE)


_EXIT_CODES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.DEADLINE,
    grpc.StatusCode.NOT_FOUND: ExitCode.USAGE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.USAGE,
    grpc.StatusCode.UNIMPLEMENTED: ExitCode.USAGE,
}


def _told(error: grpc.RpcError, service: str) -> RewardError:
    """With what the server leaves unsaid."""
    told = error_from_rpc(error)
    if told.code is grpc.StatusCode.NOT_FOUND:
        return RequestRefused(f"the server has no service {service!r}", code=told.code)
    if told.code is grpc.StatusCode.UNIMPLEMENTED:
        return RequestRefused("the server tells nothing of its health", code=told.code)
    return told


def _ask(server: str, access: Access, service: str, timeout: float) -> str:
    with access.channel(server, channel_options(DEFAULT_MAX_MESSAGE_BYTES)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        answer = stub.Check(request, timeout=timeout, metadata=access.metadata())
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
