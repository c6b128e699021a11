"""The command `health`: what supervisors and probes ask, where they cannot speak gRPC themselves,
with TLS or with a token."""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge.v1 import reward_pb2
from adjudge_reranker.access import Access, resolve_access
from adjudge_reranker.channel import DEFAULT_MAX_MESSAGE_BYTES, channel_options
from adjudge_reranker.cli.credentials import given
from adjudge_reranker.cli.judging import ExitCode, complain
from adjudge_reranker.cli.options import SERVER, Server
from adjudge_reranker.endpoints import checked_addresses

SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name


def health(
    service: Annotated[
        str, typer.Option(help='Whose health; "" is that of the server as a whole.')
    ] = SERVICE,
    server: Server = SERVER,
    timeout: Annotated[float, typer.Option(min=0.001, max=86_400, help="Seconds.")] = 5.0,
) -> None:
    """Does the server serve? Asks once: exit code 0 for SERVING, 3 for anything else that a server
    may be in, 4 if it did not answer in time, 2 for a service that it does not have or a token that
    it does not take."""
    try:
        access = resolve_access(checked_addresses(server), **given().arguments())
        status = _ask(server, access, service, timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except grpc.RpcError as error:
        complain(f"{server}: {error.code().name}: {error.details()}")
        raise typer.Exit(_EXIT_CODES.get(error.code(), ExitCode.UNREACHABLE)) from error
    print(status)
    raise typer.Exit(ExitCode.JUDGED if status == "SERVING" else ExitCode.UNREACHABLE)


_EXIT_CODES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.DEADLINE,
    grpc.StatusCode.NOT_FOUND: ExitCode.USAGE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.USAGE,
    grpc.StatusCode.UNIMPLEMENTED: ExitCode.USAGE,
}


def _ask(server: str, access: Access, service: str, timeout: float) -> str:
    with access.channel(server, channel_options(DEFAULT_MAX_MESSAGE_BYTES)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        answer = stub.Check(request, timeout=timeout, metadata=access.metadata())
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
