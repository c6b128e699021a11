"""TLS with real certificates: who is let in, and what happens when files change."""

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from adjudge.v1 import reward_pb2, reward_pb2_grpc
from adjudge_server.access.tls import TlsFiles, credentials
from adjudge_server.serve import Server
from tests.certificates import Certificates
from tests.conftest import Launch


def channel(
    server: Server, certificates: Certificates, client: str | None = None, ca: Path | None = None
) -> grpc.Channel:
    """One that shares no connection with others."""
    files = (certificates.key(client), certificates.pem(client)) if client else ()
    return grpc.secure_channel(
        f"127.0.0.1:{server.port}",
        grpc.ssl_channel_credentials(
            (ca or certificates.ca).read_bytes(), *(file.read_bytes() for file in files)
        ),
        [("grpc.use_local_subchannel_pool", 1)],
    )


def model_of(channel: grpc.Channel) -> str:
    stub = reward_pb2_grpc.RewardServiceStub(channel)
    return stub.GetModel(reward_pb2.GetModelRequest(), timeout=10.0).model.name


def refused(channel: grpc.Channel) -> str:
    with channel, pytest.raises(grpc.RpcError) as error:
        model_of(channel)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    return error.value.details()


@pytest.fixture(scope="module")
def server(launch: Launch, certificates: Certificates) -> Server:
    certificates.server()
    return launch(
        critic="fake", tls_cert=certificates.pem("server"), tls_key=certificates.key("server")
    )


@pytest.fixture(scope="module")
def mutual(launch: Launch, certificates: Certificates) -> Server:
    certificates.server()
    return launch(
        critic="fake",
        tls_cert=certificates.pem("server"),
        tls_key=certificates.key("server"),
        tls_client_ca=certificates.ca,
    )


def test_who_trusts_the_authority_is_served(server: Server, certificates: Certificates) -> None:
    with channel(server, certificates) as trusting:
        assert model_of(trusting) == "fake"


def test_who_does_not_speak_tls_gets_nothing(server: Server, mutual: Server) -> None:
    for one in (server, mutual):
        assert "Socket closed" in refused(grpc.insecure_channel(f"127.0.0.1:{one.port}"))


def test_who_trusts_another_authority_goes_away(server: Server, certificates: Certificates) -> None:
    another = certificates.another()
    assert "handshake failed" in refused(channel(server, certificates, ca=another.ca))


def test_a_client_with_a_good_certificate_is_served(
    mutual: Server, certificates: Certificates
) -> None:
    with channel(mutual, certificates, certificates.client()) as known:
        assert model_of(known) == "fake"


def test_a_client_without_a_good_certificate_gets_nothing(
    mutual: Server, certificates: Certificates
) -> None:
    another = certificates.another()
    another.client()
    of_another = (another.key("client").read_bytes(), another.pem("client").read_bytes())
    wrong = grpc.ssl_channel_credentials(certificates.ca.read_bytes(), *of_another)
    address = f"127.0.0.1:{mutual.port}"
    expired = certificates.client("expired", days=-1)
    for_servers = certificates.server("not-a-client")
    assert "Socket closed" in refused(channel(mutual, certificates))
    assert "Socket closed" in refused(grpc.secure_channel(address, wrong))
    assert "Socket closed" in refused(channel(mutual, certificates, expired))
    assert "Socket closed" in refused(channel(mutual, certificates, for_servers))


def served_serial(server: Server, certificates: Certificates) -> int:
    """The serial number of the certificate that a new connection is shown."""
    import socket
    import ssl

    context = ssl.create_default_context(cafile=certificates.ca)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sealed,
    ):
        der = sealed.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_new_connections_see_a_renewed_certificate_and_old_ones_go_on(
    launch: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(tmp_path)
    certificates.server()
    pem, key = certificates.pem("server"), certificates.key("server")
    server = launch(critic="fake", tls_cert=pem, tls_key=key)
    first = certificates.serial("server")
    with channel(server, certificates) as old, caplog.at_level(logging.INFO):
        assert model_of(old) == "fake"
        assert served_serial(server, certificates) == first
        certificates.server("next")
        shutil.copy(certificates.pem("next"), pem)  # the new certificate with the old key
        time.sleep(1.1)
        for _ in range(3):
            assert served_serial(server, certificates) == first
            assert model_of(old) == "fake"
        shutil.copy(certificates.key("next"), key)
        time.sleep(1.1)
        assert served_serial(server, certificates) == certificates.serial("next") != first
        key.write_bytes(key.read_bytes()[:60])
        time.sleep(1.1)
        assert served_serial(server, certificates) == certificates.serial("next")
        assert model_of(old) == "fake"
        with channel(server, certificates) as new:
            assert model_of(new) == "fake"
    told = [r for r in caplog.records if r.name == "adjudge_server.access.reloading"]
    assert [record.levelname for record in told] == ["WARNING", "INFO", "WARNING"]
    assert "PRIVATE" not in caplog.text


def test_a_client_authority_can_be_exchanged(launch: Launch, tmp_path: Path) -> None:
    ours, theirs = Certificates(tmp_path / "ours"), Certificates(tmp_path / "theirs")
    ours.server()
    ours.client()
    theirs.client()
    trusted = tmp_path / "trusted.pem"
    shutil.copy(ours.ca, trusted)
    server = launch(
        critic="fake",
        tls_cert=ours.pem("server"),
        tls_key=ours.key("server"),
        tls_client_ca=trusted,
    )
    with channel(server, ours, "client") as known:
        assert model_of(known) == "fake"
        shutil.copy(theirs.ca, trusted)
        time.sleep(1.1)
        refused(channel(server, ours, "client"))
        with channel(server, theirs, "client", ca=ours.ca) as new:
            assert model_of(new) == "fake"
        assert model_of(known) == "fake", "a connection that stands goes on"


@pytest.fixture
def files(certificates: Certificates) -> TlsFiles:
    name = certificates.server("checked")
    return TlsFiles(certificates.pem(name), certificates.key(name))


def test_files_that_do_not_fit_are_refused_at_the_start(
    files: TlsFiles, certificates: Certificates, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("not PEM")
    junk.chmod(0o600)
    other = certificates.key(certificates.server("other"))
    for cert, key in ((files.cert, other), (junk, files.key), (files.cert, junk)):
        with pytest.raises(ValueError, match=f"--tls-cert {cert}, --tls-key {key}: not a cert"):
            credentials(TlsFiles(cert, key))
    with pytest.raises(ValueError, match=f"--tls-client-ca {junk}"):
        credentials(TlsFiles(files.cert, files.key, junk))
    with pytest.raises(ValueError, match=f"--tls-cert {tmp_path / 'none'}: No such file"):
        credentials(TlsFiles(tmp_path / "none", files.key))


def test_a_private_key_that_is_open_to_every_user_is_refused(files: TlsFiles) -> None:
    files.key.chmod(0o644)
    with pytest.raises(ValueError, match=f"--tls-key {files.key}: open to every user"):
        credentials(files)


def test_an_encrypted_key_is_refused_and_no_password_asked_for(
    files: TlsFiles, tmp_path: Path
) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.touch(0o600)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a password"),
        )
    )
    with pytest.raises(ValueError, match="unencrypted"):
        credentials(TlsFiles(files.cert, encrypted))


def test_the_program_says_what_is_wrong_and_ends(files: TlsFiles, tmp_path: Path) -> None:
    flags = ["--critic", "fake", "--listen", "127.0.0.1:0", "--tls-cert", str(files.cert)]
    ended = subprocess.run(
        [sys.executable, "-m", "adjudge_server", *flags, "--tls-key", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert f"adjudge-server: --tls-key {tmp_path / 'none'}: No such file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_failed_handshakes_write_nothing_into_the_log(files: TlsFiles) -> None:
    flags = ["--critic", "fake", "--listen", "127.0.0.1:0", "--log-format", "json"]
    tls = ["--tls-cert", str(files.cert), "--tls-key", str(files.key)]
    command = [sys.executable, "-m", "adjudge_server", *flags, *tls]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as program:
        try:
            assert program.stdout is not None and program.stderr is not None
            address = program.stdout.readline().strip().rpartition(" ")[2]
            with grpc.insecure_channel(address) as plain, pytest.raises(grpc.RpcError):
                model_of(plain)
        finally:
            program.terminate()
        lines = program.stderr.read().splitlines()
    assert lines and all(line.startswith("{") for line in lines)
