"""The port that Prometheus scrapes."""

from prometheus_client import CollectorRegistry, start_http_server


class MetricsEndpoint:
    """Listens from its making on, in threads of its own: a scrape never waits for the model."""

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        """`address` is host:port. Raises RuntimeError where it cannot be bound."""
        host, _, port = address.rpartition(":")
        try:
            self._server, self._thread = start_http_server(
                int(port), host.strip("[]"), registry=registry
            )
        except OSError as error:
            raise RuntimeError(f"--metrics-listen {address}: {error}") from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Blocks for up to half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
