"""What changes a running server. Only servers started with `--enable-admin` do any of it."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from adjudge.v1 import admin_pb2 as pb
from adjudge_reranker.access import Tls, resolve_access
from adjudge_reranker.addresses import NAME_SCHEME, checked_addresses
from adjudge_reranker.channel import DEFAULT_MAX_MESSAGE_BYTES, Connection, Connections
from adjudge_reranker.decode import seconds
from adjudge_reranker.encode import checked_epoch
from adjudge_reranker.errors import RequestRefused, RewardError, error_from_rpc
from adjudge_reranker.lifetime import Blocking
from adjudge_reranker.retry import NOT_GIVEN, NotGiven, Timeout, checked_timeout, resolve_timeout


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What a server serves since weights were loaded."""

    weights_epoch: int
    fingerprint: str
    """As `ModelInfo.fingerprint`."""
    read_seconds: float | None
    """Reading and checking the checkpoint, while judging went on."""
    pause_seconds: float | None
    """Exchanging the weights and asking the first questions, while judging waited."""


class AdminClient(Blocking):
    """Changes a running server. Safe to share between threads.

    with AdminClient("127.0.0.1:50051") as admin:
        epoch = admin.load_weights("/checkpoints/step-200").weights_epoch

    Nothing is repeated: after a call that failed on the way nobody knows whether it took effect.
    `RewardClient.model` tells, by fingerprint and epoch.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        token: str | Path | NotGiven | None = NOT_GIVEN,
        tls: Tls | NotGiven | None = NOT_GIVEN,
        token_over_plaintext: bool = False,
        timeout: float | None = 600.0,
    ) -> None:
        """`address` is that of one server: raises ValueError for a `dns:///` name, which stands for
        several. `timeout`, in seconds, is that of calls which give none.

        `token`, `tls` and `token_over_plaintext` are those of `RewardClient`; the token is one of
        the server's admin tokens, and ADJUDGE_ADMIN_TOKEN goes before ADJUDGE_TOKEN.
        """
        if timeout is not None:
            checked_timeout(timeout)
        self._addresses = checked_addresses(address)
        if address.startswith(NAME_SCHEME):
            raise ValueError(
                f"{address}: stands for all servers of that name, and weights are loaded into one"
                " at a time: give the address of each by itself"
            )
        self._timeout = timeout
        access = resolve_access(
            self._addresses,
            token,
            tls,
            token_over_plaintext=token_over_plaintext,
            token_variables=("ADJUDGE_ADMIN_TOKEN", "ADJUDGE_TOKEN"),
        )
        self._connections = Connections(
            lambda: Connection(address, DEFAULT_MAX_MESSAGE_BYTES, access)
        )

    def load_weights(
        self,
        directory: Path | str,
        *,
        model: str | None = None,
        expected_epoch: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> LoadedWeights:
        """Replaces the weights being served by those in a directory of the server's machine.

        A relative path starts at this process's working directory. With `expected_epoch`, only if
        the weights epoch is still that. Raises a `RewardError` where nothing was loaded, in which
        case the old weights are served as before (unless the reason is CRITIC_FAILURE: see the
        server's log); if the timeout passes, it may still be loaded. Raises ValueError or TypeError
        for what is no epoch.
        """
        path = str(Path(directory).absolute())
        epoch = checked_epoch(expected_epoch)
        request = pb.LoadWeightsRequest(path=path, model=model or "", expected_epoch=epoch)
        try:
            connection = self._connections.get()
            response = connection.admin.LoadWeights(
                request,
                timeout=resolve_timeout(timeout, self._timeout),
                metadata=connection.metadata(),
            )
        except grpc.RpcError as error:
            raise _explained(error_from_rpc(error)) from error
        return LoadedWeights(
            response.weights_epoch,
            response.model_fingerprint,
            read_seconds=seconds(response, "read_duration"),
            pause_seconds=seconds(response, "pause_duration"),
        )

    def close(self) -> None:
        self._connections.close()


def _explained(error: RewardError) -> RewardError:
    """gRPC's words for a service that is not there say nothing about the flag that opens it."""
    if error.code is grpc.StatusCode.UNIMPLEMENTED and error.reason is None:
        return RequestRefused(
            "the server loads no weights: it runs without --enable-admin", code=error.code
        )
    return error
