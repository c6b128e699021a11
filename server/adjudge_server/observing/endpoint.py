"""The port that Prometheus scrapes."""

import logging
import socket
import threading
import time
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

logger = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 10.0
"""For a request to come and its answer to be read, however many bytes at a time: each caller holds
a thread."""
MAX_CALLERS: Final = 16
"""At the same time; more are hung up on."""


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
    timeout = REQUEST_SECONDS

    def log_message(self, *_: Any) -> None:
        """Nothing: a line for each scrape would be the most of the log."""


class _Server(ThreadingMixIn, WSGIServer):
    """What comes with prometheus-client prints a traceback for each caller that hangs up, and waits
    for ever for one that says nothing."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self._ends: dict[socket.socket, float] = {}
        """Open connections, and when they are over."""
        self._lock = threading.Lock()
        [self.address_family, *_], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._ends) >= MAX_CALLERS:
            self.shutdown_request(request)
            return
        with self._lock:
            self._ends[request] = time.monotonic() + _Handler.timeout
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Comes twice a second: the timeout of a socket begins anew with each byte."""
        with self._lock:
            for request, end in self._ends.items():
                if time.monotonic() > end:
                    with suppress(OSError):  # it hung up itself
                        request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._ends.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("a caller of the metrics broke off", exc_info=True)
