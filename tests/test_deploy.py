"""The files of deploy/ fit each other and the server: flags, ports, names, paths, times. What real
tools say of them is in docs/running.md; `test_deploy_served` starts what they describe."""

import asyncio
import json
import re
import shutil
import subprocess
import tomllib
import urllib.request
from pathlib import Path, PurePosixPath

import grpc.aio
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adjudge_reranker import AdminClient, RewardClient
from adjudge_server.__main__ import parse
from adjudge_server.config import Config
from adjudge_server.serve import LAST_SECONDS, SERVICE, Server
from tests.conftest import Launch
from tests.deployment import (
    DEPLOY,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    CommandProbe,
    Deployed,
    GrpcProbe,
    all_ways,
    instructions,
    key,
    manifests,
    patched,
    pod,
    unit,
)
from tests.server.observing.scraping import scrape

LIVENESS = "grpc.health.v1.Health"
WAYS = pytest.mark.parametrize("way", all_ways(), ids=lambda way: way.name)
EVERY_OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


@WAYS
def test_every_flag_is_one_of_the_server_and_all_go_together(way: Deployed) -> None:
    config = parse(way.flags)
    assert config.listen == "0.0.0.0:50051" and config.on_stuck == "exit"


@WAYS
def test_the_server_is_not_killed_while_it_drains(way: Deployed) -> None:
    if way.stop_seconds is not None:
        assert parse(way.flags).drain_seconds + 2 * LAST_SECONDS < way.stop_seconds


@pytest.mark.parametrize("way", [w for w in all_ways() if w.probes], ids=lambda way: way.name)
def test_probes_ask_for_services_that_the_server_has_on_its_port(way: Deployed) -> None:
    config = parse(way.flags)
    for name, probe in way.probes.items():
        wanted = LIVENESS if name == "livenessProbe" else SERVICE
        if isinstance(probe, GrpcProbe):
            assert config.listen.endswith(f":{probe.port}") and probe.service == wanted
            assert config.tls_cert is None, "Kubernetes' own probes speak no TLS"
            assert not config.closed_health
        else:
            assert isinstance(probe, CommandProbe) and probe.command[:2] == ("adjudge", "health")
            assert probe.command[2:] in ((), (f"--service={wanted}",))
            assert config.listen.rpartition(":")[2] in way.environment["ADJUDGE_SERVER"]


def test_what_a_server_says_of_its_process_does_not_wait_for_its_critic() -> None:
    async def ask() -> list[int]:
        server = Server(Config(listen="127.0.0.1:0", critic="fake"))
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                requests = [health_pb2.HealthCheckRequest(service=s) for s in (LIVENESS, SERVICE)]
                return [(await stub.Check(request)).status for request in requests]
        finally:
            await server.stop()

    statuses = health_pb2.HealthCheckResponse
    assert asyncio.run(ask()) == [statuses.SERVING, statuses.NOT_SERVING]


@EVERY_OVERLAY
def test_names_labels_and_ports_of_the_manifests_fit_each_other(overlay: str) -> None:
    found = manifests(overlay)
    stateful, service, pods = (
        found["StatefulSet"],
        found["Service"],
        found["Service adjudge-pods"],
    )
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    selectors = [
        stateful["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        pods["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert stateful["spec"]["serviceName"] == pods["metadata"]["name"]
    assert pods["spec"]["publishNotReadyAddresses"] is True, "what lost its weights is not ready"
    assert "publishNotReadyAddresses" not in service["spec"], "clients ask those that serve"
    for each in (service, pods):
        assert each["spec"]["clusterIP"] == "None", "as text: YAML has no such null"
    (server,) = pod(overlay)["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    assert [port["port"] for port in pods["spec"]["ports"]] == [ports["grpc"]]
    ingress = found["NetworkPolicy"]["spec"]["ingress"]
    assert {port["port"] for rule in ingress for port in rule["ports"]} == set(ports)
    config = parse(server["args"])
    assert config.listen.endswith(f":{ports['grpc']}")
    assert config.metrics_listen is not None
    assert config.metrics_listen.endswith(f":{ports['metrics']}")


def test_prometheus_finds_one_service_and_its_port() -> None:
    monitor = yaml.safe_load((KUBERNETES / "monitoring" / "servicemonitor.yaml").read_text())
    service = manifests("base")["Service"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    pods = manifests("base")["Service adjudge-pods"]
    assert not wanted.items() <= pods["metadata"]["labels"].items()
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


@EVERY_OVERLAY
def test_every_path_of_the_pod_is_on_a_volume_that_exists(overlay: str) -> None:
    spec, claims = pod(overlay), manifests(overlay)["StatefulSet"]["spec"]["volumeClaimTemplates"]
    (server,) = spec["containers"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in claims}
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes
    named = [flag.partition("=")[2] for flag in server["args"]]
    named += [variable["value"] for variable in server.get("env", ())]
    paths = [PurePosixPath(text) for text in named if text.startswith("/")]
    assert paths and all(any(path.is_relative_to(mount) for mount in mounts) for path in paths), (
        "the root file system is read-only"
    )


@EVERY_OVERLAY
def test_secrets_are_readable_for_the_servers_group_alone(overlay: str) -> None:
    modes = [
        volume["secret"]["defaultMode"] for volume in pod(overlay)["volumes"] if "secret" in volume
    ]
    assert len(modes) == (0 if overlay == "base" else 2) and set(modes) <= {0o440}
    assert pod(overlay)["securityContext"]["fsGroup"] == 10001


@EVERY_OVERLAY
@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not here to render them")
def test_the_tests_read_the_manifests_as_kubectl_does(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    documents = {key(document): document for document in yaml.safe_load_all(rendered)}
    (image,) = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["images"]
    ours = manifests(overlay)
    (server,) = ours["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    server["image"] = f"{image['newName']}:{image['newTag']}"
    assert documents == ours


def test_a_patch_that_replaces_nothing_is_an_error() -> None:
    with pytest.raises(KeyError):
        patched({"a": {}}, [{"op": "replace", "path": "/a/b", "value": 1}])


def test_the_image_holds_what_the_package_is_built_from_and_its_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert all((ROOT / source).exists() for source in copied)
    needed = [project["project"]["readme"], "pyproject.toml", "constraints.txt"]
    needed += project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert all(any(PurePosixPath(n).is_relative_to(c) for c in copied) for n in needed)
    (installed,) = [
        rest for name, rest in instructions() if name == "RUN" and "pip install" in rest
    ]
    extras = re.search(r"'\.\[([a-z,]+)\]'", installed)
    assert extras and {"server", "cli"} <= set(extras[1].split(","))
    assert set(extras[1].split(",")) <= project["project"]["optional-dependencies"].keys()
    said = dict(instructions())
    commands = {json.loads(said["ENTRYPOINT"])[0]}
    commands.add(json.loads(said["HEALTHCHECK"].partition("CMD ")[2])[0])
    assert commands <= project["project"]["scripts"].keys()


def test_a_gpu_is_kept_away_by_what_the_unit_and_its_page_name() -> None:
    """See systemd.exec(5): what else implies DeviceAllow= is not in the unit."""
    closing = {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"}
    page = (ROOT / "docs" / "running.md").read_text()
    assert {name for name in closing & unit().keys() if f"`{name}=no`" not in page} == set()


def test_nothing_runs_as_root() -> None:
    user, _, group = dict(instructions())["USER"].partition(":")
    context = pod("base")["securityContext"]
    assert (int(user), int(group)) == (context["runAsUser"], context["runAsGroup"]) != (0, 0)
    assert context["runAsNonRoot"] and unit()["User"] not in ([], ["root"])


def test_systemd_does_not_start_what_would_be_refused_again() -> None:
    service = unit()
    assert service["Restart"] == ["on-failure"]
    with pytest.raises(SystemExit) as refused:
        parse(["--listen", "0.0.0.0:50051"])
    assert service["RestartPreventExitStatus"] == [str(refused.value.code)]


def test_alerts_are_about_metrics_that_a_server_has(launch: Launch) -> None:
    server = launch(critic="fake", metrics_listen="127.0.0.1:0", audit=None)
    with RewardClient(f"127.0.0.1:{server.port}") as client:
        client.score("Why?", ["so", "because"])
        client.compare("Why?", ["so", "because"], [(0, 1)])
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        there = set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), flags=re.MULTILINE))
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text())["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"(?:adjudge|process)_\w+", rule["expr"])}
    assert used - there <= {"adjudge_audit_records_total"}  # of servers that keep one
    page = (ROOT / "docs" / "running.md").read_text()
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in page] == []


def test_replicas_differ_by_their_weights_and_not_by_how_often_those_were_loaded(
    launch: Launch, tmp_path: Path
) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text())["groups"][0]["rules"]
    (expression,) = [r["expr"] for r in rules if r["alert"] == "AdjudgeReplicasDiffer"]
    said = re.fullmatch(
        r"count by \(job, (\w+)\) \(count by \(job, \1, (\w+)\) \((\w+)\)\) > 1", expression
    )
    assert said
    model, weights, metric = said.groups()
    servers = [
        launch(
            critic="fake", metrics_listen="127.0.0.1:0", enable_admin=True, weights_dir=(tmp_path,)
        )
        for _ in range(2)
    ]

    def load(server: Server, step: str) -> None:
        (tmp_path / step).mkdir(exist_ok=True)
        with AdminClient(f"127.0.0.1:{server.port}") as admin:
            admin.load_weights(tmp_path / step)

    def alerts() -> bool:
        found: dict[str, set[str]] = {}
        for server in servers:
            for name, labels in scrape(server):
                if name == metric:
                    said = dict(labels)
                    found.setdefault(said[model], set()).add(said[weights])
        assert found
        return any(len(distinct) > 1 for distinct in found.values())

    assert not alerts()
    load(servers[0], "step-1")
    assert alerts()
    load(servers[1], "step-2")
    load(servers[1], "step-1")
    assert not alerts()
