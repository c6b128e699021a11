"""A server with the embedded critic, as a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class CriticServer:
    """`adjudge-server` on a free port, which it keeps when it is started again."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it serves. Raises RuntimeError if it does not."""
        command = [sys.executable, "-m", "adjudge_server", "--listen", self.address]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        ready = self._process.stdout.readline().strip()
        if not ready:
            raise RuntimeError(f"adjudge-server ended with {self._process.wait()}")
        self.address = ready.rpartition(" ")[2]

    def kill(self) -> None:
        """Ends it without a warning to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def critic_at(address: str | None) -> Iterator[str]:
    """The address, or that of a server which lives as long as the context."""
    if address is not None:
        yield address
        return
    server = CriticServer()
    server.start()
    try:
        yield server.address
    finally:
        server.stop()
