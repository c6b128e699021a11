"""Mistakes in arguments are told when they are made, in words that say where and what."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_reranker import (
    AdminClient,
    AsyncRewardClient,
    RetryPolicy,
    RewardClient,
    RewardError,
)
from adjudge_reranker.addresses import host_and_port
from adjudge_reranker.encode import compare_draft
from adjudge_reranker.retry import checked_timeout, resolve_timeout
from adjudge_reranker.types import OrderPolicy, Readout
from tests.reranker.test_cli import invoke

CLIENTS = [RewardClient, AsyncRewardClient, AdminClient]
every_client = pytest.mark.parametrize("make", CLIENTS)


def compare(pairs: Any) -> list[tuple[int, int]]:
    """The pairs of a request."""
    draft = compare_draft(
        "Why?",
        ["a", "b"],
        pairs,
        template=None,
        reference=None,
        rubric=None,
        model=None,
        expected_epoch=None,
        readout=Readout.DIRECT,
        order_policy=OrderPolicy.BOTH,
    )
    return [(pair.first, pair.second) for pair in draft.options.pairs]


# Pairs --------------------------------------------------------------------------------------------


@given(st.one_of(st.integers(max_value=-1), st.integers(min_value=2)), st.booleans())
def test_an_index_of_no_candidate_is_told_with_its_pair(index: int, is_first: bool) -> None:
    pair = (index, 0) if is_first else (0, index)
    side = "first" if is_first else "second"
    told = (
        f"pairs[1].{side}: {index} is no index of a candidate; there are 2, and the first one is 0"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        compare([(0, 1), pair])


@pytest.mark.parametrize("pair", [("0", 1), (0, None), (0.0, 1)])
def test_what_is_no_index_is_told_with_its_pair(pair: Any) -> None:
    with pytest.raises(TypeError, match=r"^pairs\[0\]\.\w+ must be an integer, not "):
        compare([pair])


def test_indices_of_numpy_are_taken() -> None:
    assert compare(np.array([[0, 1], [1, 0]])) == [(0, 1), (1, 0)]


def test_a_client_says_it_before_it_connects() -> None:
    for index in (-1, 2, 2**32):
        told = rf"^pairs\[0\]\.second: {index} is no index"
        with RewardClient("127.0.0.1:1") as client:
            with pytest.raises(ValueError, match=told):
                client.compare("Why?", ["a", "b"], pairs=[(0, index)])
            with pytest.raises(ValueError, match=told):
                client.critique("Why?", ["a", "b"], pairs=[(0, index)])


# Timeouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [True, False, "60", b"1", 1j, [1]])
def test_what_is_no_number_is_no_timeout(timeout: Any) -> None:
    told = re.escape(f"timeout must be a number of seconds, not {timeout!r}")
    for make in CLIENTS:
        with pytest.raises(TypeError, match=told):
            make("127.0.0.1:1", timeout=timeout)
    with RewardClient("127.0.0.1:1") as client, pytest.raises(TypeError, match=told):
        client.score("Why?", ["a"], timeout=timeout)
    with AdminClient("127.0.0.1:1") as admin, pytest.raises(TypeError, match=told):
        admin.load_weights("/step-1", timeout=timeout)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_of_a_call_must_be_positive_and_finite(timeout: float) -> None:
    with AdminClient("127.0.0.1:1") as admin, pytest.raises(ValueError, match="positive"):
        admin.load_weights("/step-1", timeout=timeout)


@given(st.one_of(st.floats(0.001, 1e9), st.integers(1, 10**9)))
def test_any_positive_number_is_a_timeout(timeout: float) -> None:
    for number in (timeout, np.float64(timeout)):
        assert checked_timeout(number) == resolve_timeout(number, None) == timeout


# Addresses ----------------------------------------------------------------------------------------


@every_client
@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs", "tcp", ""])
def test_a_url_is_no_address(make: Callable[..., Any], scheme: str) -> None:
    told = f"^{scheme}://host:1: must be host:port, without {scheme}://$"
    with pytest.raises(ValueError, match=told):
        make(f"{scheme}://host:1")


@every_client
@pytest.mark.parametrize(
    "address",
    [
        "host:1",
        "127.0.0.1:1",
        "[::1]:1",
        "dns:///host:1",
        "ipv4:127.0.0.1:1",
        "unix:/a",
        "unix:///a",
        "unix:a",
        "xds:///a",
        "xds://authority/a",
        "unix:///a",
    ],
)
def test_targets_of_grpc_are_addresses(make: Callable[..., Any], address: str) -> None:
    if make is AdminClient and address.startswith("dns:"):
        with pytest.raises(ValueError, match="one at a time"):
            make(address)
    else:
        assert address in repr(make(address))


MISTAKEN = {
    "127.0.0.1:99999": "'99999' is no port",
    "dns://host:50051": "must be dns:///host:port, with three slashes",
    "dns://host": "must be dns:///host:port, with three slashes",
    "node.1:50051": "node.1 is no IP address, nor a host's name",
    "unix:": "must be unix:/path",
    "unix://host/path": "must be unix:/path",
    "unix-abstract:": "must be unix:/path or unix-abstract:name",
    "127.0.0.1:0": "'0' is no port",
    "127.0.0.1:abc": "'abc' is no port",
    "127.0.0.1:007": "'007' is no port",
    "127.0.0.1:1 ": "'1 ' is no port",
    "127.0.0.1:": "no port after the colon",
    "localhost": "has no port",
    "[::1]": "has no port",
    "dns:///host": "has no port",
    "dns:1": "has no port",
    ":1": "has no host",
    " 127.0.0.1:1": "' 127.0.0.1' is no host",
    "user@host:1": "'user@host' is no host",
    "host/path:1": "'host/path' is no host",
    "::1:50051": "stands in brackets",
    "[localhost]:1": "no IPv6 address",
    "127.1:1": "127.1 is no IP address",
    "ipv4:localhost:1": "localhost is no IP address",
    "ipv6:127.0.0.1:1": "127.0.0.1 is no IP address",
    "XDS:1": "for a scheme",
    "a:1,b:2": "give each by itself",
}


@every_client
@pytest.mark.parametrize(("address", "told"), MISTAKEN.items())
def test_a_mistaken_address_is_told_when_a_client_is_made(
    make: Callable[..., Any], address: str, told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        make(address)
    assert address in str(refused.value)


@given(st.text("127.0:[]abdnsip%,/@ +x-", max_size=24))
def test_an_address_is_taken_only_for_the_host_and_port_that_are_written_there(text: str) -> None:
    try:
        host, port = host_and_port(text)
    except ValueError:
        return
    rest = re.sub("^(dns:(//[^/]*/)?|ipv[46]:)", "", text)
    assert rest in (f"{host}:{port}", f"[{host}]:{port}")
    assert 0 < port < 2**16 and not set(host) & set("[], /@")


_octet = st.integers(1, 254)
_loopback = st.builds("127.{}.{}.{}".format, _octet, _octet, _octet)
"""Where nobody listens, other than at 127.0.0.1."""
_ports = st.one_of(
    st.integers(0, 10**6).map(str), st.from_regex("[ +0-9]{0,6}[a-f]?", fullmatch=True)
)


@settings(max_examples=60)
@given(
    st.sampled_from(["", "dns:", "dns:///", "ipv4:"]), _loopback, st.sampled_from(["", ":"]), _ports
)
def test_grpc_reads_each_accepted_address_as_that_host_and_port(
    prefix: str, host: str, colon: str, port: str
) -> None:
    try:
        client = RewardClient(prefix + host + colon + port, retry=RetryPolicy(max_attempts=1))
    except ValueError:
        return
    with client, pytest.raises(RewardError) as refused:
        client.model(timeout=20.0)
    # The failed attempt names what was connected to.
    assert f" ipv4:{host}:{port}: " in refused.value.message


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "localhost", "127.0.0.1:99999"])
@pytest.mark.parametrize(
    "command", [["info"], ["score", "--prompt", "Why?", "a"], ["health"], ["load-weights", "."]]
)
def test_the_command_says_it_too(command: list[str], address: str) -> None:
    ended = invoke(address, *command)
    assert ended.exit_code == 2
    assert "must be host:port" in " ".join(ended.stderr.split())


# Candidates and prompts ---------------------------------------------------------------------------


@pytest.mark.parametrize("candidate", [None, 7, {"text": "a"}, b"bytes"])
def test_what_is_no_candidate_is_told_with_its_place(candidate: Any) -> None:
    told = (
        r"^candidates\[1\] must be a text, or a list or tuple of texts and pictures,"
        f" not {type(candidate).__name__}$"
    )
    with RewardClient("127.0.0.1:1") as client, pytest.raises(TypeError, match=told):
        client.score("Why?", ["a", candidate])


def test_a_part_that_is_no_picture_is_told_with_its_candidate() -> None:
    with RewardClient("127.0.0.1:1") as client:
        with pytest.raises(
            TypeError, match=r"^candidates\[0\]: .*NoneType is not a picture: pass "
        ):
            client.score("Why?", [[None]])  # type: ignore[list-item]
        with pytest.raises(ValueError, match=r"^candidates\[0\]: a picture of no bytes$"):
            client.score("Why?", [["a", b""]])


@pytest.mark.parametrize("prompt", [None, 7, b"bytes"])
def test_what_is_no_prompt_is_told(prompt: Any) -> None:
    told = "^the prompt must be a text, or a list or tuple of texts, pictures or messages, not "
    with RewardClient("127.0.0.1:1") as client, pytest.raises(TypeError, match=told):
        client.score(prompt, ["a"])


def test_a_text_is_not_taken_for_its_letters() -> None:
    told = r"^candidates must be a list or tuple, not str$"
    with RewardClient("127.0.0.1:1") as client, pytest.raises(TypeError, match=told):
        client.score("Why?", "abc")
