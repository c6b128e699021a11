"""A server in a process of its own that is watched from outside: memory, threads, files, log."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Watched:
    address: str
    pid: int
    log: Path

    def is_alive(self) -> bool:
        return "State:\tZ" not in self._status()

    def resident_bytes(self) -> int:
        return self._field("VmRSS") * 1024

    def peak_bytes(self) -> int:
        """The most that was resident since `forget_peak`."""
        return self._field("VmHWM") * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5)

    def cpu_seconds(self) -> float:
        """Of all its threads so far; how busy the machine is does not matter to it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5)

    def threads(self) -> int:
        return self._field("Threads")

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def complaints(self) -> list[str]:
        """Lines of the log that tell of what should not happen."""
        bad = ("Traceback", "ERROR", "CRITICAL", "Task was destroyed", "never retrieved")
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(word in line for word in bad)]

    def _status(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/status").read_text()
        except FileNotFoundError:
            return "State:\tZ"

    def _field(self, name: str) -> int:
        for line in self._status().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise ProcessLookupError(f"process {self.pid} is gone")


@contextmanager
def watched(log: Path, *flags: str) -> Iterator[Watched]:
    """Ready to answer. Its standard error goes to the file `log`."""
    command = [sys.executable, "-m", "adjudge_server", "--listen", "127.0.0.1:0", *flags]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            ready = server.stdout.readline().split()
            assert ready[:1] == ["serving"], log.read_text()
            yield Watched(ready[-1], server.pid, log)
        finally:
            server.kill()
