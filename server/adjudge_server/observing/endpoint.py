"""The port that Prometheus scrapes."""

import logging
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

logger = logging.getLogger(__name__)

READ_SECONDS: Final = 10.0
"""For a request to be read: each caller holds a thread."""


class MetricsEndpoint:
    """Listens from its making on, in threads of its own: a scrape never waits for the model."""

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        """`address` is host:port. Raises RuntimeError where it cannot be bound."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            self._server = _Server(host, int(port))
        except OSError as error:
            raise RuntimeError(f"--metrics-listen {address}: {error}") from error
        self._server.set_app(make_wsgi_app(registry))
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Blocks for up to half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(WSGIRequestHandler):
    timeout = READ_SECONDS

    def log_message(self, *_: Any) -> None:
        """Nothing: a line for each scrape would be the most of the log."""


class _Server(ThreadingMixIn, WSGIServer):
    """What comes with prometheus-client prints a traceback for each caller that hangs up, and waits
    for ever for one that says nothing."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        [self.address_family, *_], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        super().__init__((host, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("a caller of the metrics broke off", exc_info=True)
