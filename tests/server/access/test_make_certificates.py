"""The example makes certificates that TLS takes, for the machines and purposes that it says."""

import contextlib
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import EXAMPLE, Certificates

NAMES = ("ca", "server", "client")


def run(directory: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, EXAMPLE, directory, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ended.stdout


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def handshake(directory: Path, client: str, server: str, host: str) -> None:
    """Between two ends in memory, each of which asks for the other's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca.pem")
    theirs.verify_mode = ssl.CERT_REQUIRED
    theirs.load_cert_chain(directory / f"{server}.pem", directory / f"{server}.key")
    ours = ssl.create_default_context(cafile=directory / "ca.pem")
    ours.load_cert_chain(directory / f"{client}.pem", directory / f"{client}.key")
    ends = [
        ours.wrap_bio(to_client, to_server, server_hostname=host),
        theirs.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    for end in ends:
        assert end.getpeercert()


def test_they_are_good_for_the_hosts_named_and_no_other(tmp_path: Path) -> None:
    run(tmp_path / "made", "--server", "critic.example.com", "--server", "10.0.0.7")
    for host in ("critic.example.com", "10.0.0.7"):
        handshake(tmp_path / "made", "client", "server", host)
    for host in ("example.com", "localhost", "10.0.0.8"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(tmp_path / "made", "client", "server", host)


def test_a_certificate_serves_one_purpose(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificates.server()
    certificates.client()
    handshake(tmp_path, "client", "server", "localhost")
    for client, server in (("server", "server"), ("client", "client")):
        with pytest.raises(ssl.SSLError):
            handshake(tmp_path, client, server, "localhost")


def test_a_second_run_keeps_the_authority_and_renews_the_rest(tmp_path: Path) -> None:
    told = run(tmp_path / "made")
    first = contents(tmp_path / "made")
    run(tmp_path / "made")
    second = contents(tmp_path / "made")
    assert set(first) == set(second) == {f"{n}.{end}" for n in NAMES for end in ("pem", "key")}
    assert {name for name in first if first[name] == second[name]} == {"ca.pem", "ca.key"}
    assert "--tls-cert" in told and "ADJUDGE_TLS_CA" in told


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    run(tmp_path / "made")
    for name in NAMES:
        assert (tmp_path / "made" / f"{name}.key").stat().st_mode & 0o777 == 0o600


def test_an_expired_one_is_expired(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificates.server()
    certificates.client(days=-1)
    with pytest.raises(ssl.SSLError, match="expired"):
        handshake(tmp_path, "client", "server", "localhost")
