"""One name that stands for several servers: found, followed when it changes, and no call waits."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import AsyncRewardClient, RetryPolicy, RewardClient, RewardError, Tls
from adjudge_reranker.errors import ServerUnavailable
from adjudge_reranker.names import DOUBT_SECONDS, REFRESH_SECONDS, Names, Target
from adjudge_reranker.servers import RETIRED_SECONDS, Servers
from tests.certificates import Certificates
from tests.reranker.scripted import ScriptedService, fail, serving

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class NameServer:
    """Stands for the system's resolver."""

    def __init__(self, *hosts: str) -> None:
        self.hosts: tuple[str, ...] = hosts
        self.num_asked = 0
        self.answers = threading.Event()
        self.answers.set()

    def look_up(self, host: str, port: int, **_: object) -> list[tuple]:
        self.num_asked += 1
        self.answers.wait()
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in host else socket.AF_INET, 1, 6, "", (host, port))
            for host in self.hosts
        ]


def names(server: NameServer, *addresses: str, clock: Clock | None = None) -> Names:
    return Names(addresses or ["dns:///critic:7"], look_up=server.look_up, clock=clock or Clock())


def looked_up(found: Names) -> list[str]:
    """After whatever look-up is due."""
    found.refresh()
    while found._looking is not None:
        time.sleep(0.001)
    return [target.address for target in found.targets]


def test_a_name_is_all_its_addresses_and_other_addresses_are_what_they_are() -> None:
    server = NameServer("127.0.0.3", "127.0.0.1", "127.0.0.3")
    found = names(server, "other:1", "dns:///critic.cluster.local:7")
    assert looked_up(found) == ["other:1", "127.0.0.1:7", "127.0.0.3:7"]
    assert found.targets[0] == Target("other:1", None)
    assert found.targets[1] == Target("127.0.0.1:7", "critic.cluster.local")


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        (("::1", "127.0.0.1"), ["[::1]:7"]),
        (("127.0.0.1", "::1"), ["127.0.0.1:7"]),
        (("fe80::2", "fe80::1"), ["[fe80::1]:7", "[fe80::2]:7"]),
    ],
)
def test_a_server_with_addresses_of_two_families_counts_once(hosts, addresses) -> None:
    assert looked_up(names(NameServer(*hosts))) == addresses


@given(st.lists(st.sets(st.sampled_from(HOSTS)), min_size=1, max_size=6))
def test_the_last_addresses_count_until_there_are_others(answers: list[set[str]]) -> None:
    server, clock = NameServer(), Clock()
    found = names(server, clock=clock)
    expected: list[str] = []
    for answer in answers:
        server.hosts = tuple(answer)
        expected = [f"{host}:7" for host in sorted(answer)] or expected
        assert looked_up(found) == expected
        clock.now += REFRESH_SECONDS


def test_a_name_is_looked_up_again_in_a_while_or_soon_after_a_failure() -> None:
    server, clock = NameServer(*HOSTS), Clock()
    found = names(server, clock=clock)
    looked_up(found)
    clock.now += REFRESH_SECONDS - 0.1
    looked_up(found)
    assert server.num_asked == 1
    clock.now += 0.1
    looked_up(found)
    assert server.num_asked == 2
    clock.now += DOUBT_SECONDS
    for _ in range(5):
        found.doubt()
        looked_up(found)
    assert server.num_asked == 3


def test_only_who_has_no_server_waits_for_a_look_up() -> None:
    server, clock = NameServer(*HOSTS), Clock()
    found = names(server, clock=clock)
    server.answers.clear()
    first = found.refresh()
    assert isinstance(first, Future) and found.refresh() is first and not found.targets
    server.answers.set()
    first.result(20)
    assert len(found.targets) == 3
    server.answers.clear()
    clock.now += REFRESH_SECONDS
    assert found.refresh() is None and len(found.targets) == 3
    server.answers.set()


def test_addresses_without_a_name_start_no_thread() -> None:
    before = threading.active_count()
    found = Names(["a:1", "b:2", "dns://8.8.8.8/critic:7"])
    assert found.refresh() is None and len(found.targets) == 3
    found.doubt()
    assert found.refresh() is None and threading.active_count() == before


@pytest.mark.parametrize("address", ["dns:///critic", "dns:///:7", "dns:///a:x", "dns:///a:0"])
@pytest.mark.parametrize("client", [RewardClient, AsyncRewardClient])
def test_a_name_without_a_port_is_refused(client: type, address: str) -> None:
    with pytest.raises(ValueError, match="dns:///host:port"):
        client(address)


def test_a_connection_whose_server_is_gone_is_kept_for_a_while_and_then_closed() -> None:
    server, clock = NameServer(*HOSTS), Clock()
    found = names(server, clock=clock)
    looked_up(found)
    servers = Servers((), RetryPolicy(), lambda target: target.address, names=found, clock=clock)
    used = set()
    for number in range(60):
        with servers.one(str(number).encode()) as address:
            used.add(address)
    assert len(used) == 3

    def follow(hosts: tuple[str, ...], seconds: float) -> list[str]:
        server.hosts = hosts
        clock.now += seconds
        looked_up(found)
        return servers.retired()

    assert follow(HOSTS[:2], REFRESH_SECONDS) == []
    assert follow(HOSTS, RETIRED_SECONDS) == []  # it came back
    assert follow(HOSTS[:2], REFRESH_SECONDS) == []
    assert follow(HOSTS[:2], RETIRED_SECONDS + 1) == ["127.0.0.3:7"]
    assert follow(HOSTS[:2], RETIRED_SECONDS + 1) == []
    assert sorted(servers.end()) == ["127.0.0.1:7", "127.0.0.2:7"]
    with pytest.raises(RuntimeError, match="closed"), servers.one(b"a"):
        pass


@dataclass
class Replicas:
    """Three servers on one port of three hosts, and the name server that knows them."""

    resolver: NameServer
    services: dict[str, ScriptedService]

    @property
    def name(self) -> str:
        return "dns:///critic.test:" + self.services[HOSTS[0]].address.rpartition(":")[2]

    def asked(self) -> list[int]:
        return [len(service.requests) for service in self.services.values()]


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> Iterator[Replicas]:
    resolver, real = NameServer(*HOSTS), socket.getaddrinfo

    def look_up(host: str, *arguments, **options):
        chosen = resolver.look_up if host == "critic.test" else real
        return chosen(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serving(f"{HOSTS[0]}:0"))
        port = first.address.rpartition(":")[2]
        others = [stack.enter_context(serving(f"{host}:{port}")) for host in HOSTS[1:]]
        yield Replicas(resolver, dict(zip(HOSTS, [first, *others], strict=True)))


def ask(client: RewardClient, prompts: Iterable[int], **options: float) -> None:
    for number in prompts:
        assert client.score(f"Question {number}?", ["abc"], **options).rewards == (3.0,)


def test_prompts_spread_over_the_servers_of_a_name_and_each_stays_at_one(replicas) -> None:
    with RewardClient(replicas.name) as client:
        ask(client, range(30))
        ask(client, range(30))
    assert sum(replicas.asked()) == 60
    texts = [
        [request.prompt[0].parts[0].text for request in service.requests]
        for service in replicas.services.values()
    ]
    assert all(texts) and all(len(set(seen)) * 2 == len(seen) for seen in texts)
    assert replicas.resolver.num_asked == 1


def test_the_asyncio_client_finds_them_too(replicas) -> None:
    async def all_prompts() -> None:
        async with AsyncRewardClient(replicas.name) as client:
            calls = [client.score(f"Question {number}?", ["abc"]) for number in range(30)]
            assert {result.rewards for result in await asyncio.gather(*calls)} == {(3.0,)}

    asyncio.run(all_prompts())
    assert all(replicas.asked()) and replicas.resolver.num_asked == 1


def test_a_server_that_fails_is_left_for_those_that_the_name_has_since(
    replicas, monkeypatch
) -> None:
    monkeypatch.setattr("adjudge_reranker.names.DOUBT_SECONDS", 0.0)
    replicas.resolver.hosts = HOSTS[:1]
    first, *others = replicas.services.values()
    with RewardClient(replicas.name, retry=RetryPolicy(0.01, 0.05), timeout=20.0) as client:
        ask(client, range(3))
        assert replicas.asked() == [3, 0, 0]
        replicas.resolver.hosts = HOSTS[1:]
        first.plan(fail(grpc.StatusCode.UNAVAILABLE))
        ask(client, range(3, 30))
    assert sum(len(service.requests) for service in others) >= 26


def test_a_name_server_that_does_not_answer_costs_no_call_that_knows_a_server(
    replicas, monkeypatch
) -> None:
    monkeypatch.setattr("adjudge_reranker.names.REFRESH_SECONDS", 0.0)
    with RewardClient(replicas.name, timeout=20.0) as client:
        ask(client, range(1))
        replicas.resolver.answers.clear()
        ask(client, range(10), timeout=5.0)
        replicas.resolver.answers.set()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_name_without_addresses_is_an_unavailable_server_within_the_timeout(
    replicas, hangs: bool
) -> None:
    replicas.resolver.hosts = ()
    if hangs:
        replicas.resolver.answers.clear()

    async def ask_once() -> None:
        async with AsyncRewardClient(replicas.name, timeout=0.5) as client:
            await client.score("Why?", ["abc"])

    told = "still being looked up" if hangs else "critic.test has no address"
    try:
        with (
            RewardClient(replicas.name, timeout=0.5) as client,
            pytest.raises(ServerUnavailable, match=told),
        ):
            client.score("Why?", ["abc"])
        with pytest.raises(ServerUnavailable, match=told):
            asyncio.run(ask_once())
    finally:
        replicas.resolver.answers.set()
    assert replicas.asked() == [0, 0, 0]


def test_a_call_waits_for_a_name_that_gets_an_address_within_the_timeout(replicas) -> None:
    replicas.resolver.hosts = ()
    appears = threading.Timer(0.3, lambda: setattr(replicas.resolver, "hosts", HOSTS))
    appears.start()
    with RewardClient(replicas.name, retry=RetryPolicy(0.05, 0.1), timeout=20.0) as client:
        ask(client, range(1))
    appears.join()


def test_the_name_is_what_certificates_are_checked_for(tmp_path, launch, monkeypatch) -> None:
    made = Certificates(tmp_path)
    made.server(hosts=("critic.test",))
    server = launch(critic="fake", tls_cert=made.pem("server"), tls_key=made.key("server"))
    resolver, real = NameServer("127.0.0.1"), socket.getaddrinfo

    def look_up(host: str, *arguments, **options):
        chosen = resolver.look_up if host.endswith(".test") else real
        return chosen(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    tls = Tls(ca=made.ca)
    with RewardClient(f"dns:///critic.test:{server.port}", tls=tls) as client:
        assert client.score("Why?", ["abc"]).rewards
    with (
        RewardClient(f"dns:///other.test:{server.port}", tls=tls, timeout=2.0) as client,
        pytest.raises(RewardError),
    ):
        client.score("Why?", ["abc"])
