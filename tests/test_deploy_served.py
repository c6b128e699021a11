"""The command lines of deploy/, to the letter but for paths and ports, start servers that pass the
probes that go with them, and end with status 0 when they are told to."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge_reranker import RewardClient, Tls
from adjudge_server.__main__ import parse
from tests.certificates import Certificates
from tests.deployment import (
    CommandProbe,
    Deployed,
    GrpcProbe,
    Probe,
    container,
    kubernetes,
    systemd,
)
from tests.server.access.conftest import new_token, secret_file

START_SECONDS = 300.0
STOP_SECONDS = 45.0
"""Where the file does not say it."""
PROGRAMS = {"adjudge-server": "adjudge_server", "adjudge": "adjudge_reranker.cli"}
HOST = "adjudge"
"""In the server's certificate."""


class Place:
    """A directory that stands for the root of a machine, and free ports for the usual ones."""

    def __init__(self, root: Path, way: Deployed) -> None:
        self._root = root
        self.ports = {"50051": _free_port(), "9464": _free_port()}
        self._certificates = Certificates(root / "made")
        self._certificates.server(hosts=(HOST, "localhost"))
        self.token = new_token()
        self.command = [self._here(word) for word in way.command]
        self.config = parse(self.command[1:])
        self.environment = {name: self._here(value) for name, value in way.environment.items()}
        self._fill()

    @property
    def port(self) -> str:
        return self.ports["50051"]

    def client(self) -> RewardClient:
        tls = None
        if self.config.tls_cert is not None:
            tls = Tls(ca=self._certificates.ca, server_name=HOST)
        token = self.token if self.config.tokens else None
        return RewardClient(f"127.0.0.1:{self.port}", token=token, tls=tls)

    def passes(self, probe: Probe) -> bool:
        if isinstance(probe, CommandProbe):
            return self._run(probe.command)
        assert self._here(f":{probe.port}") == f":{self.port}"
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=probe.service)
            try:
                status = stub.Check(request, timeout=20, wait_for_ready=True).status
            except grpc.RpcError:
                return False
            return bool(status == health_pb2.HealthCheckResponse.SERVING)

    def trusting(self) -> Mapping[str, str]:
        """What `adjudge` needs to know where no file says it."""
        return {
            "ADJUDGE_SERVER": f"localhost:{self.port}",
            "ADJUDGE_TLS_CA": str(self._certificates.ca),
        }

    def _run(self, command: tuple[str, ...]) -> bool:
        program, *arguments = command
        done = subprocess.run(
            [sys.executable, "-m", PROGRAMS[program], *arguments],
            env=os.environ | dict(self.environment),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def _here(self, text: str) -> str:
        """The same in this place: on loopback, since a test listens nowhere else."""
        text = text.replace("0.0.0.0", "127.0.0.1")
        for usual, free in self.ports.items():
            text = re.sub(rf":{usual}\b", f":{free}", text)
        return re.sub(r"(^|=)/(?=(etc|run|var)/)", rf"\g<1>{self._root}/", text)

    def _fill(self) -> None:
        """Makes the files that flags and variables name."""
        made, config = self._certificates, self.config
        sources = {
            config.tls_cert: made.pem("server"),
            config.tls_key: made.key("server"),
            Path(self.environment.get("ADJUDGE_TLS_CA", self._root / "none")): made.ca,
        }
        for target, source in sources.items():
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch(0o600)
                target.write_bytes(source.read_bytes())
        if config.tokens is not None:
            config.tokens.parent.mkdir(parents=True, exist_ok=True)
            secret_file(config.tokens, self.token)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


# The embedded critic in one of them; in the others one that starts faster.
@pytest.mark.parametrize(
    ("way", "more"),
    [
        (systemd(), ["--critic", "fake"]),
        (container(), ["--critic", "fake"]),
        (kubernetes("base"), []),
        (kubernetes("tls"), ["--critic", "fake"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_server_passes_its_probes_judges_and_ends_well(
    way: Deployed, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("ADJUDGE_")]:
        monkeypatch.delenv(name)
    place = Place(tmp_path, way)
    probes = dict(way.probes)
    if not probes:  # systemd asks nothing; whoever does uses the command
        place.environment |= place.trusting()
        probes = {"command": CommandProbe(("adjudge", "health"))}
    program, *flags = place.command
    module = PROGRAMS[PurePosixPath(program).name]
    with subprocess.Popen(
        [sys.executable, "-m", module, *flags, *more], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            first = probes.get("startupProbe") or next(iter(probes.values()))
            _wait(place, first, server)
            assert {name: place.passes(probe) for name, probe in probes.items()} == dict.fromkeys(
                probes, True
            )
            with place.client() as client:
                assert None not in client.score("Why?", ["so", "because"]).rewards
            server.send_signal(signal.SIGTERM)
            assert server.wait(way.stop_seconds or STOP_SECONDS) == 0
        finally:
            server.kill()
    if place.config.audit is not None:
        assert [path.stat().st_size > 0 for path in place.config.audit.iterdir()] == [True]


def _wait(place: Place, probe: Probe, server: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_SECONDS
    while not place.passes(probe):
        assert server.poll() is None, server.communicate()[1]
        assert time.monotonic() < end, "it does not become ready"
        time.sleep(0.2)


def test_a_probe_of_a_service_that_does_not_exist_fails(address: str, tmp_path: Path) -> None:
    place = Place(tmp_path, kubernetes("base"))
    place.ports["50051"] = address.rpartition(":")[2]
    assert place.passes(GrpcProbe(50051, "adjudge.v1.RewardService"))
    assert not place.passes(GrpcProbe(50051, "adjudge.v1.Rewards"))
