"""Clients with tokens and TLS, against real servers with real certificates."""

import asyncio
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import (
    AdminClient,
    AsyncRewardClient,
    ErrorReason,
    RequestRefused,
    RetryPolicy,
    RewardClient,
    RewardError,
    ServerUnavailable,
    Tls,
)
from adjudge_reranker.access import is_loopback
from adjudge_reranker.handshakes import is_refused, may_be_refused
from adjudge_reranker.trainers.trl import AdjudgeReward
from tests.certificates import Certificates
from tests.conftest import Launch
from tests.reranker.test_cli import invoke
from tests.server.access.conftest import new_token, secret_file

TOKEN, ADMIN = new_token(), new_token()
REMOTE = "critic.example.com:50051"


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "TOKEN_FILE", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "TOKEN_OVER_PLAINTEXT"):
        monkeypatch.delenv(f"ADJUDGE_{name}", raising=False)
    for name in ("CA", "CERT", "KEY", "SERVER_NAME"):
        monkeypatch.delenv(f"ADJUDGE_TLS_{name}", raising=False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("secure")
    secret_file(directory / "tokens", TOKEN)
    secret_file(directory / "admin", ADMIN)
    (directory / "step-1").mkdir()
    return directory


@pytest.fixture(scope="module")
def certificates(directory: Path) -> Certificates:
    certificates = Certificates(directory / "certificates")
    certificates.server()
    certificates.server("elsewhere", hosts=("critic.example.com",))
    certificates.client()
    certificates.client("expired", days=-1)
    return certificates


@pytest.fixture(scope="module")
def closed(launch: Launch, directory: Path) -> str:
    """A server in plain text that asks for tokens."""
    server = launch(
        critic="fake",
        tokens=directory / "tokens",
        enable_admin=True,
        weights_dir=(directory,),
        admin_tokens=directory / "admin",
        max_candidates=4,
    )
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def sealed(launch: Launch, directory: Path, certificates: Certificates) -> str:
    """A server with TLS that asks for tokens."""
    server = launch(
        critic="fake",
        tokens=directory / "tokens",
        tls_cert=certificates.pem("server"),
        tls_key=certificates.key("server"),
    )
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def mutual(launch: Launch, certificates: Certificates) -> str:
    """A server with TLS that asks for certificates."""
    server = launch(
        critic="fake",
        tls_cert=certificates.pem("server"),
        tls_key=certificates.key("server"),
        tls_client_ca=certificates.ca,
    )
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def misnamed(launch: Launch, certificates: Certificates) -> str:
    """A server whose certificate is for critic.example.com."""
    server = launch(
        critic="fake",
        tls_cert=certificates.pem("elsewhere"),
        tls_key=certificates.key("elsewhere"),
    )
    return f"127.0.0.1:{server.port}"


def blocking(address: Any, **options: Any) -> str:
    with RewardClient(address, **options) as client:
        return client.model().name


def in_a_loop(address: Any, **options: Any) -> str:
    async def ask() -> str:
        async with AsyncRewardClient(address, **options) as client:
            return (await client.model()).name

    return asyncio.run(ask())


Ask = Callable[..., str]
both_clients = pytest.mark.parametrize("ask", [blocking, in_a_loop])


# ---------------------------------------------------------------------------------- tokens


@both_clients
def test_a_token_opens_the_server(ask: Ask, closed: str, directory: Path) -> None:
    assert ask(closed, token=TOKEN) == "fake"
    (directory / "own").write_text(f"{TOKEN}\n")
    assert ask(closed, token=directory / "own") == "fake"


@both_clients
@pytest.mark.parametrize("token", [None, new_token(), ADMIN], ids=["none", "wrong", "admin"])
def test_a_wrong_token_is_refused_at_once_with_what_to_do(
    ask: Ask, closed: str, token: str | None
) -> None:
    started = time.monotonic()
    with pytest.raises(RequestRefused, match="ADJUDGE_TOKEN") as refused:
        ask(closed, token=token, timeout=60.0)
    assert time.monotonic() - started < 10.0, "nothing was repeated"
    error = refused.value
    assert error.reason is ErrorReason.UNAUTHENTICATED
    assert error.code is grpc.StatusCode.UNAUTHENTICATED
    assert error.metadata == {"needs": "token"}
    if token is not None:
        assert token not in repr(error) + str(error) + repr(error.__cause__)


def test_every_call_of_a_client_carries_the_token(closed: str) -> None:
    candidates = list("abcdefgh")  # two calls in threads: the server takes four
    with RewardClient(closed, token=TOKEN) as client:
        assert None not in client.score("Why?", candidates).rewards
        assert len(client.compare("Why?", ["a", "b"], [(0, 1)]).outcomes) == 1
        assert list(client.critique("Why?", ["a"]))
        assert client.model().name == "fake"

    async def the_same() -> None:
        async with AsyncRewardClient(closed, token=TOKEN) as client:
            assert None not in (await client.score("Why?", candidates)).rewards
            assert len((await client.compare("Why?", ["a", "b"], [(0, 1)])).outcomes) == 1
            assert [event async for event in client.critique("Why?", ["a"])]
            assert (await client.model()).name == "fake"

    asyncio.run(the_same())


def test_a_stream_without_a_token_is_refused(closed: str) -> None:
    async def stream() -> None:
        async with AsyncRewardClient(closed) as client:
            async for _ in client.critique("Why?", ["a"]):
                pass

    with RewardClient(closed) as client, pytest.raises(RequestRefused) as refused:
        next(client.critique("Why?", ["a"]))
    with pytest.raises(RequestRefused) as refused_too:
        asyncio.run(stream())
    for caught in (refused, refused_too):
        assert caught.value.reason is ErrorReason.UNAUTHENTICATED


def test_admin_methods_take_admin_tokens_only(closed: str, directory: Path) -> None:
    for token in (None, TOKEN, new_token()):
        with AdminClient(closed, token=token) as admin, pytest.raises(RequestRefused) as refused:
            admin.load_weights(directory / "step-1")
        assert refused.value.reason is ErrorReason.UNAUTHENTICATED
        assert refused.value.metadata == {"needs": "admin token"}
        assert "ADJUDGE_ADMIN_TOKEN" in refused.value.message
    with AdminClient(closed, token=ADMIN) as admin:
        assert admin.load_weights(directory / "step-1").weights_epoch >= 1


@both_clients
def test_the_environment_counts_where_there_is_no_argument(
    ask: Ask, closed: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADJUDGE_TOKEN", f" {TOKEN}\n")
    assert ask(closed) == "fake"
    with pytest.raises(RequestRefused):
        ask(closed, token=new_token())
    with pytest.raises(RequestRefused):
        ask(closed, token=None)
    monkeypatch.setenv("ADJUDGE_TOKEN", new_token())
    assert ask(closed, token=TOKEN) == "fake"
    monkeypatch.setenv("ADJUDGE_TOKEN", "")
    (directory / "of-environment").write_text(TOKEN)
    monkeypatch.setenv("ADJUDGE_TOKEN_FILE", str(directory / "of-environment"))
    assert ask(closed) == "fake"
    monkeypatch.setenv("ADJUDGE_TOKEN", TOKEN)
    with pytest.raises(ValueError, match="both set"):
        ask(closed)


def test_an_admin_token_of_the_environment_goes_before_a_plain_one(
    closed: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADJUDGE_TOKEN", ADMIN)
    with AdminClient(closed) as admin:
        admin.load_weights(directory / "step-1")
    monkeypatch.setenv("ADJUDGE_TOKEN", TOKEN)
    monkeypatch.setenv("ADJUDGE_ADMIN_TOKEN", ADMIN)
    with AdminClient(closed) as admin, RewardClient(closed) as client:
        admin.load_weights(directory / "step-1")
        client.model()


def test_a_reward_function_takes_the_token_of_the_environment(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADJUDGE_TOKEN", TOKEN)
    rewards = AdjudgeReward(closed)(prompts=["Why?"], completions=["so"])
    assert rewards[0] is not None


def test_a_token_in_a_file_may_be_replaced_while_a_client_lives(
    launch: Launch, tmp_path: Path
) -> None:
    old, new = new_token(), new_token()
    known, own = secret_file(tmp_path / "known", old), tmp_path / "own"
    own.write_text(old)
    server = launch(critic="fake", tokens=known)
    with RewardClient(f"127.0.0.1:{server.port}", token=own) as client:
        assert client.model().name == "fake"
        secret_file(known, new)
        own.write_text("")
        time.sleep(1.1)
        with pytest.raises(RequestRefused):
            client.model()
        own.write_text(new)
        time.sleep(1.1)
        assert client.model().name == "fake"


@pytest.mark.parametrize("make", [RewardClient, AsyncRewardClient, AdminClient])
def test_a_token_does_not_cross_a_network_in_plain_text(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"{REMOTE} in plain text") as refused:
        make(REMOTE, token=TOKEN)
    assert TOKEN not in str(refused.value)
    make(REMOTE)
    make(REMOTE, token=TOKEN, tls=Tls())
    make(REMOTE, token=TOKEN, token_over_plaintext=True)
    monkeypatch.setenv("ADJUDGE_TOKEN", TOKEN)
    with pytest.raises(ValueError, match="in plain text"):
        make(REMOTE)
    monkeypatch.setenv("ADJUDGE_TOKEN_OVER_PLAINTEXT", "1")
    make(REMOTE)


def test_one_remote_address_among_local_ones_is_enough_to_refuse() -> None:
    with pytest.raises(ValueError, match="in plain text"):
        RewardClient(["127.0.0.1:1", REMOTE], token=TOKEN)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_target_is_local_exactly_where_its_address_is(address: Any, port: int) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    for prefix in ("", "dns:///", f"ipv{address.version}:"):
        target = f"{prefix}{host}:{port}"
        assert is_loopback(target) == address.is_loopback


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost:1", True),
        ("LocalHost:1", True),
        ("unix:/run/adjudge.sock", True),
        ("localhost", False),
        ("127.0.0.1.example.com:1", False),
        ("localhost.example.com:1", False),
        ("dns://8.8.8.8/localhost:1", False),
        ("ipv4:127.0.0.1:1,8.8.8.8:1", False),
        ("ipv4:8.8.8.8:1,127.0.0.1:1", False),
        ("xds:///localhost:1", False),
    ],
)
def test_targets_in_words(target: str, expected: bool) -> None:
    assert is_loopback(target) == expected


@pytest.mark.parametrize("token", ["", " ", "two words", "with\nnewline", "schlüssel", "a,b"])
def test_what_is_no_token_is_told_without_repeating_it(token: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token, "utf-8")
    for given_token in (token, path):
        with pytest.raises(ValueError) as refused:
            RewardClient(token=given_token)
        assert not token.strip() or token not in str(refused.value)
    with pytest.raises(ValueError, match="No such file"):
        RewardClient(token=tmp_path / "none")


@pytest.mark.parametrize("make", [RewardClient, AsyncRewardClient])
def test_a_token_is_not_shown_and_survives_pickling(make: Any, closed: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    for token in (TOKEN, path):
        client = make(closed, token=token)
        twin = pickle.loads(pickle.dumps(client))
        for one in (client, twin):
            assert TOKEN not in repr(one) and TOKEN not in repr(vars(one))
        assert (TOKEN.encode() in pickle.dumps(client)) == (token is TOKEN)
        if make is RewardClient:
            with twin:
                assert twin.model().name == "fake"


def test_relative_paths_are_those_of_the_directory_in_which_the_client_was_made(
    sealed: str, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(certificates.directory)
    Path("token").write_text(TOKEN)
    pickled = []
    with RewardClient(sealed, token=Path("token"), tls=Tls("ca.pem")) as client:
        pickled.append(pickle.dumps(client))
    monkeypatch.setenv("ADJUDGE_TOKEN_FILE", "token")
    monkeypatch.setenv("ADJUDGE_TLS_CA", "ca.pem")
    with RewardClient(sealed) as client:
        pickled.append(pickle.dumps(client))
    monkeypatch.chdir(tmp_path)
    for one in pickled:
        with pickle.loads(one) as twin:
            assert twin.model().name == "fake"


# ------------------------------------------------------------------------------------- TLS


@both_clients
def test_tls_and_a_token_open_a_sealed_server(
    ask: Ask, sealed: str, certificates: Certificates
) -> None:
    tls = Tls(ca=certificates.ca)
    assert ask(sealed, token=TOKEN, tls=tls) == "fake"
    with pytest.raises(RequestRefused) as refused:
        ask(sealed, tls=tls)
    assert refused.value.reason is ErrorReason.UNAUTHENTICATED


@both_clients
def test_tls_files_come_from_the_environment_where_there_is_no_argument(
    ask: Ask, mutual: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADJUDGE_TLS_CA", str(certificates.ca))
    monkeypatch.setenv("ADJUDGE_TLS_CERT", str(certificates.pem("client")))
    monkeypatch.setenv("ADJUDGE_TLS_KEY", str(certificates.key("client")))
    assert ask(mutual) == "fake"
    with pytest.raises(ServerUnavailable):
        ask(mutual, tls=None, timeout=0.5)
    monkeypatch.delenv("ADJUDGE_TLS_KEY")
    with pytest.raises(ValueError, match="certificate and its key"):
        ask(mutual)


@both_clients
def test_an_untrusted_server_is_told_at_once_whatever_the_timeout(
    ask: Ask, sealed: str, misnamed: str, address: str, certificates: Certificates
) -> None:
    other = certificates.another()
    for target, tls in (
        (sealed, Tls(ca=other.ca)),
        (sealed, Tls()),
        (misnamed, Tls(ca=certificates.ca)),
        (sealed, Tls(ca=certificates.ca, server_name="critic.example.com")),
        (address, Tls(ca=certificates.ca)),  # a server without TLS
    ):
        started = time.monotonic()
        with pytest.raises(RequestRefused, match="TLS handshake failed") as refused:
            ask(target, tls=tls, token=TOKEN, timeout=60.0)
        assert time.monotonic() - started < 10.0
        assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
        assert refused.value.reason is None


@both_clients
def test_a_certificate_may_have_a_name_that_is_not_the_address(
    ask: Ask, misnamed: str, certificates: Certificates
) -> None:
    tls = Tls(ca=certificates.ca, server_name="critic.example.com")
    assert ask(misnamed, tls=tls) == "fake"


@both_clients
def test_a_client_certificate_that_is_missing_or_wrong_is_hinted_at(
    ask: Ask, mutual: str, certificates: Certificates
) -> None:
    stranger = certificates.another()
    stranger.client()
    ours = certificates.pem("expired"), certificates.key("expired")
    theirs = stranger.pem("client"), stranger.key("client")
    for tls in (None, Tls(certificates.ca), *(Tls(certificates.ca, *c) for c in (ours, theirs))):
        # The server only hangs up, as it does when it dies: worth repeating until the timeout.
        with pytest.raises(ServerUnavailable, match="wants TLS, or a client certificate"):
            ask(mutual, tls=tls, timeout=1.0, retry=RetryPolicy(0.0, 0.01))


def test_an_admin_client_speaks_tls_too(
    launch: Launch, directory: Path, certificates: Certificates
) -> None:
    server = launch(
        critic="fake",
        tls_cert=certificates.pem("server"),
        tls_key=certificates.key("server"),
        enable_admin=True,
        weights_dir=(directory,),
        admin_tokens=directory / "admin",
    )
    address = f"127.0.0.1:{server.port}"
    with AdminClient(address, token=ADMIN, tls=Tls(certificates.ca)) as admin:
        assert admin.load_weights(directory / "step-1").weights_epoch == 1
    with (
        AdminClient(address, token=ADMIN, tls=Tls(certificates.another().ca)) as admin,
        pytest.raises(RequestRefused, match="TLS handshake failed"),
    ):
        admin.load_weights(directory / "step-1")


def test_calls_of_a_living_client_survive_the_exchange_of_the_servers_certificate(
    launch: Launch, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path)
    certificates.server()
    server = launch(
        critic="fake", tls_cert=certificates.pem("server"), tls_key=certificates.key("server")
    )
    tls = Tls(certificates.ca)
    address, ended = f"127.0.0.1:{server.port}", time.monotonic() + 3.0

    def keep_asking(_: int) -> int:
        num_calls = 0
        with RewardClient(address, tls=tls, retry=RetryPolicy(max_attempts=1)) as living:
            while time.monotonic() < ended:
                assert None not in living.score("Why?", ["a", "b"]).rewards
                num_calls += 1
        return num_calls

    with ThreadPoolExecutor(3) as threads:
        living = threads.map(keep_asking, range(3))
        while time.monotonic() < ended:
            certificates.server()
            assert blocking(address, tls=tls, retry=RetryPolicy(max_attempts=1)) == "fake"
        assert all(num_calls > 0 for num_calls in living)


def test_files_that_cannot_be_used_are_told_when_the_client_is_made(
    certificates: Certificates, tmp_path: Path
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("not PEM")
    client, key = certificates.pem("client"), certificates.key("client")
    for tls in (
        Tls(ca=junk),
        Tls(ca=tmp_path / "none"),
        Tls(cert=junk, key=key),
        Tls(cert=client, key=junk),
        Tls(cert=client, key=certificates.key("server")),
    ):
        for make in (RewardClient, AsyncRewardClient, AdminClient):
            with pytest.raises(ValueError, match="TLS"):
                make(tls=tls)
    with pytest.raises(ValueError, match="certificate and its key"):
        Tls(cert=client)


# As grpcio 1.71.2 and 1.85.3 put it, without the address.
REFUSED = [
    "Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:"
    "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
    "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:"
    "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
    "Peer name 127.0.0.1 is not in peer certificate",
    "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check "
    "failed.",
]
NOT_REFUSED = [
    "Socket closed",
    "Failed to connect to remote host: Connection refused",
    "Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SYSCALL",
    "connection attempt timed out before receiving SETTINGS frame",
]


@pytest.mark.parametrize("text", REFUSED)
def test_refusals_of_either_grpc_are_told_apart(text: str) -> None:
    whole = f"failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.7:1: {text}"
    assert is_refused(whole) and not may_be_refused(whole)


@pytest.mark.parametrize("text", NOT_REFUSED)
def test_what_may_pass_is_no_refusal(text: str) -> None:
    whole = f"failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.0.0.7:1: {text}"
    assert not is_refused(whole)
    assert may_be_refused(whole) == (text == "Socket closed")
    assert not may_be_refused(text)


# ----------------------------------------------------------------------------- the command


def test_the_command_takes_a_token_from_a_file_or_the_environment(
    closed: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    assert invoke(closed, "--token-file", path, "info").exit_code == 0
    refused = invoke(closed, "info")
    assert refused.exit_code == 2 and "UNAUTHENTICATED" in refused.stderr
    monkeypatch.setenv("ADJUDGE_TOKEN", TOKEN)
    judged = invoke(closed, "score", "--prompt", "Why?", "so")
    assert judged.exit_code == 0
    path.write_text(ADMIN)
    loaded = invoke(closed, "--token-file", path, "load-weights", directory / "step-1")
    assert loaded.exit_code == 0
    for result in (refused, judged, loaded):
        assert TOKEN not in result.output and ADMIN not in result.output


def test_the_command_speaks_tls(
    sealed: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADJUDGE_TOKEN", TOKEN)
    assert invoke(sealed, "--tls-ca", certificates.ca, "info").exit_code == 0
    monkeypatch.setenv("ADJUDGE_TLS_CA", str(certificates.ca))
    assert invoke(sealed, "info").exit_code == 0
    wrong = invoke(sealed, "--tls-ca", certificates.another().ca, "info")
    assert wrong.exit_code == 2 and "TLS handshake failed" in wrong.stderr


def test_the_command_says_which_option_makes_no_sense(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = invoke("127.0.0.1:1", "--tls-cert", certificates.pem("client"), "info")
    assert half.exit_code == 2 and "certificate and its key" in half.stderr
    monkeypatch.setenv("ADJUDGE_TOKEN", TOKEN)
    for arguments in (["info"], ["load-weights", "/step-1"]):
        plain = invoke(REMOTE, *arguments)
        assert plain.exit_code == 2 and "plain text" in plain.stderr
        assert TOKEN not in plain.output


def test_errors_of_access_are_typed_like_all_others(closed: str) -> None:
    with RewardClient(closed) as client, pytest.raises(RewardError) as refused:
        client.score("Why?", ["so"])
    assert isinstance(pickle.loads(pickle.dumps(refused.value)), RequestRefused)
