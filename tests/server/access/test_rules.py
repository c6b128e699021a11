"""What would let strangers in by accident is refused before anything listens."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_server.__main__ import parse
from adjudge_server.access.rules import is_loopback
from adjudge_server.config import Config


@given(st.ip_addresses())
def test_an_address_is_local_exactly_where_the_internet_protocol_says_so(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    assert is_loopback(host) == address.is_loopback


@given(st.integers(0, 2**24 - 1))
def test_all_of_127_is_local(low: int) -> None:
    assert is_loopback(str(ipaddress.IPv4Address((127 << 24) + low)))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "::1"])
def test_the_usual_names_of_this_machine_are_local(host: str) -> None:
    assert is_loopback(host)
    Config(listen=f"{host}:50051")


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "[::]",
        "*",
        "example.com",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "127.1",
        "0x7f.1",
        "2130706433",
        "ipv4:127.0.0.1",
        "[::ffff:8.8.8.8]",
    ],
)
def test_anything_else_is_refused_without_tls_unless_told_otherwise(host: str) -> None:
    with pytest.raises(ValueError, match="--tls-cert and --tls-key, or --allow-plaintext"):
        Config(listen=f"{host}:50051")
    Config(listen=f"{host}:50051", allow_plaintext=True)
    Config(listen=f"{host}:50051", tls_cert="c.pem", tls_key="c.key")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tls_cert": "c.pem"}, "--tls-cert and --tls-key"),
        ({"tls_key": "c.key"}, "--tls-cert and --tls-key"),
        ({"tls_client_ca": "ca.pem"}, "--tls-client-ca needs"),
        ({"closed_health": True}, "--closed-health needs"),
        ({"admin_tokens": "admin"}, "--admin-tokens needs --enable-admin"),
        ({"enable_admin": True, "weights_dir": (".",), "tokens": "t"}, "needs --admin-tokens too"),
        (
            {"enable_admin": True, "weights_dir": (".",), "listen": "0.0.0.0:1"}
            | {"allow_plaintext": True},
            "needs --admin-tokens",
        ),
        (
            {"enable_admin": True, "weights_dir": (".",), "listen": "0.0.0.0:1", "tokens": "t"}
            | {"tls_cert": "c.pem", "tls_key": "c.key"},
            "needs --admin-tokens",
        ),
    ],
)
def test_settings_that_do_not_go_together_name_the_flags(settings, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Config(**settings)


def test_admin_is_open_to_this_machine_alone_and_to_others_with_admin_tokens() -> None:
    Config(enable_admin=True, weights_dir=(".",))
    Config(
        listen="0.0.0.0:1",
        enable_admin=True,
        weights_dir=(".",),
        tls_cert="c.pem",
        tls_key="c.key",
        admin_tokens="admin",
    )


def test_the_command_line_refuses_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--listen", "0.0.0.0:50051"])
    assert ended.value.code == 2
    assert "--allow-plaintext" in capsys.readouterr().err


def test_every_flag_of_access_is_understood() -> None:
    flags = ["--listen", "0.0.0.0:1", "--tls-cert", "c.pem", "--tls-key", "c.key"]
    flags += ["--tls-client-ca", "ca.pem", "--tokens", "t", "--admin-tokens", "a"]
    flags += ["--closed-health", "--allow-plaintext", "--enable-admin", "--weights-dir", "."]
    config = parse(flags)
    assert [str(path) for path in (config.tls_cert, config.tls_key, config.tls_client_ca)] == [
        "c.pem",
        "c.key",
        "ca.pem",
    ]
    assert (str(config.tokens), str(config.admin_tokens)) == ("t", "a")
    assert config.closed_health and config.allow_plaintext


def remote(**settings: object) -> Config:
    return Config(model=Path("m"), engine="vllm", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost", "https://gpu:8000/v1"]
)
def test_an_engine_is_reached_on_this_machine_or_under_tls(url: str) -> None:
    assert remote(engine_url=url).engine_url == url


@pytest.mark.parametrize("url", ["http://gpu:8000", "http://10.0.0.1", "http://0.0.0.0:8000"])
def test_an_engine_elsewhere_in_the_clear_needs_a_word(url: str) -> None:
    with pytest.raises(ValueError, match=r"--engine-url .* or --allow-plaintext"):
        remote(engine_url=url)
    remote(engine_url=url, allow_plaintext=True)


@pytest.mark.parametrize(
    "url", ["http://", "http:///v1", "http://:8000", "ftp://gpu", "gpu:8000", "http://gpu:x", None]
)
def test_what_is_no_url_of_an_engine_is_refused(url: str | None) -> None:
    with pytest.raises(ValueError, match="--engine-url"):
        remote(engine_url=url, allow_plaintext=True)


def test_a_password_in_an_engines_url_is_refused_and_not_repeated() -> None:
    for url in ("https://user:sesame@gpu", "http://sesame@127.0.0.1:8000/"):
        with pytest.raises(ValueError, match="--engine-key") as refused:
            remote(engine_url=url)
        assert "sesame" not in str(refused.value)
