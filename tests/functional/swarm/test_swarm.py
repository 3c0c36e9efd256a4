"""Docker Swarm through Salt's own loader, on a daemon of the tests' own: see support/dockerd.py.

Every state is planned first: :meth:`Core.apply` asserts that the plan listed what the apply then changed.
"""

from __future__ import annotations

import copy
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import docker
import pytest
import salt.config
from saltfactories.utils.functional import Loaders
from support.cost import least_seconds
from support.dockerd import Dockerd
from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.base.secrets import Store
from vcore.certificates import x509
from vcore.certificates.authority import Authority
from vcore.images import builder
from vcore.services.catalogue import Service
from vcore.swarm import rolling
from vcore.swarm.deployment import wanted
from vcore.swarm.membership import FORGOTTEN, Swarm

CHECKOUT = Path(__file__).resolve().parents[3]

REGISTRY = "registry.vcore.test:5000"
TEMPLATE = "health: {{ settings.health }}\nmotto: {{ settings.motto }}\nnetwork: {{ network.name }}\n"
#: A minimal image for a service: healthy while its config says so, and quick to stop.
BUILD_IMAGE = """
root=$(mktemp -d)
mkdir -p $root/bin $root/sbin $root/etc
cp /bin/busybox $root/bin/busybox
for name in sh sleep grep cat echo; do ln -s busybox $root/bin/$name; done
cat > $root/sbin/server_health.sh <<'END'
#!/bin/sh
grep -q '^health: good' /etc/tiny/service.conf || { echo "the config says $(cat /etc/tiny/service.conf)"; exit 1; }
END
cat > $root/sbin/server_run.sh <<'END'
#!/bin/sh
trap 'exit 0' TERM
echo "the password is $(cat /run/secrets/password)"
grep -q '^health: dead' /etc/tiny/service.conf && exit 3
while :; do sleep 1 & wait $!; done
END
chmod 755 $root/sbin/*
tar -C $root -c . | docker import --change 'ENTRYPOINT ["/sbin/server_run.sh"]' - %s >/dev/null
rm -r $root
"""
DEFINITION = {
    "title": "A tiny service",
    "image": {"name": "tiny", "push": False},
    "ports": {"web": {"number": 8080, "audience": "site"}},
    "volumes": {"data": {"path": "/data"}},
    "certificates": {"tls": {"certificate": "/tls/crt", "key": "/tls/key", "authority": "/tls/ca", "owner": 911}},
    "secrets": {"password": {"path": "/run/secrets/password"}, "head-only": {}},
    "configs": {"service.conf": {"template": "service.conf.j2", "path": "/etc/tiny/service.conf"}},
    "capabilities": ["SYS_NICE"],
    "sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"},
    "health": {"interval": 1, "timeout": 5, "retries": 1, "start_period": 1},
    "memory": {"limit": "64M"},
    "stop_grace": 5,
}


class Core:
    """A head in a folder: its files, its pillar, and Salt's loader for them."""

    def __init__(self, folder: Path, daemon: Dockerd) -> None:
        self.folder, self.daemon = folder, daemon
        self.api = docker.APIClient(base_url=daemon.url, version="auto")
        self.pillar = {
            "site": {"name": "vcore", "domain": "vcore.test", "organization": "Virtual Core"},
            "base_directory": "/data",
            "network": {
                "name": "virtual_core",
                "subnet": "172.18.0.0/24",
                "bridge_subnet": "172.18.1.0/24",
                "ingress_subnet": "172.18.2.0/24",
            },
            "node": {"name": "head", "roles": ["head"], "address": daemon.address},
            "nodes": {"head": {"roles": ["head"], "address": daemon.address}, "compute-1": {"roles": ["compute"]}},
            "head": {"name": "head", "address": daemon.address},
            "authorized_keys": ["ssh-ed25519 AAAA root@example"],
            "monitoring": False,
            "registry": REGISTRY,
            "build": {"source": "mmdebstrap", "mirror": None, "proxy": None, "ca_bundle": None, "refresh": ""},
            "certificate_authority": {"certificate": None, "key": None, "lifetime": 3650, "renew_before": 30},
            "services": {},
        }
        root = folder / "salt"
        configuration = {
            "id": "head",
            "root_dir": str(root),
            **{key: str(root / key) for key in ("cachedir", "pki_dir", "sock_dir", "extension_modules")},
            "log_file": str(root / "log"),
            "file_client": "local",
            "saltenv": "base",
            "enable_fqdns_grains": False,
            "enable_gpu_grains": False,
            "pillar_roots": {"base": [str(folder / "pillar")]},
            "file_roots": {"base": [str(root / "states")]},
            "module_dirs": [str(CHECKOUT / "salt")],
            # Otherwise the loader would take salt/states, which holds SLS files, for the folder of state modules.
            "states_dirs": [str(CHECKOUT / "salt" / "_states")],
            "virtual_core": {key: str(folder / key) for key in ("checkout", "configuration", "state")},
        }
        root.mkdir(parents=True)
        (root / "minion").write_text(json.dumps(configuration))
        self.opts = salt.config.minion_config(str(root / "minion"))
        self.paths = Paths.from_opts(self.opts)
        (folder / "pillar").mkdir(parents=True)
        (folder / "pillar" / "top.sls").write_text("base: {'*': [site]}\n")
        self.write_pillar()
        self.loaders = Loaders(self.opts)

    def write_pillar(self) -> None:
        (self.folder / "pillar" / "site.sls").write_text("#!json\n" + json.dumps({"vcore": self.pillar}))

    def add(self, name: str = "tiny", **differences) -> dict:
        """Switch a service on; :meth:`make` does what the states before its own would do."""
        service = Service.model_validate(copy.deepcopy(DEFINITION) | differences).model_dump(mode="json")
        service.update(name=name, node="head", settings={"health": "good", "motto": "one"})
        if service["mode"] == "global":
            service["node"] = None
        for volume in service["volumes"].values():
            volume["source"] = "/data/tiny"
        for certificate in service["certificates"].values():
            certificate.update(names=[name, f"{name}.vcore.test"], addresses=["127.0.0.1"], supplied=None)
        self.pillar["services"][name] = service
        files = self.paths.services / name / "files"
        files.mkdir(parents=True, exist_ok=True)
        (files / "service.conf.j2").write_text(TEMPLATE)
        self.set_image("one")
        return service

    def set_image(self, content: str) -> None:
        """Change the sources of the service's image."""
        self.content = content
        for image in ("base", "tiny"):
            (self.paths.images / image).mkdir(parents=True, exist_ok=True)
            (self.paths.images / image / "Dockerfile").write_text(f"ARG BASE\nFROM ${{BASE}}\n# {content}\n")
        shutil.copy(CHECKOUT / "versions.yaml", self.paths.versions)

    @property
    def tag(self) -> str:
        return builder.recipe("tiny", self.pillar, self.paths).tag

    def set_password(self, value: str, name: str = "tiny") -> None:
        Store(self.paths.secrets).write(name, "password", value.encode())

    def make(self) -> None:
        """What the states before ``service_running`` do: authority, certificates, secrets, image."""
        authority = Authority(self.paths.authority, x509.policy(self.pillar))
        authority.ensure()
        for name in self.pillar["services"]:
            authority.issue(x509.wanted(self.pillar, f"{name}/tls"))
            if not Store(self.paths.secrets).exists(name, "password"):
                self.set_password("first-password", name)
        if self.content != "missing":
            self.daemon.run(f"docker tag {REGISTRY}/tiny:{self.content} {REGISTRY}/tiny:{self.tag}")
        builder.Builder(self.pillar, self.paths, self.api)._record("tiny", self.tag, None)

    def leaf(self, ending: str) -> str:
        return (self.paths.authority / "issued" / "tiny" / f"tls.{ending}").read_text()

    def plan(self, state: str, name: str = "tiny", **arguments):
        self.write_pillar()
        return self.loaders.states[f"vcore_swarm.{state}"](name, test=True, **arguments)

    def apply(self, state: str, name: str = "tiny", *, succeeds: bool = True, make: bool = True, **arguments):
        """Plan, do what the states before do, apply, compare; return the applied state's result."""
        if state == "service_running":
            arguments = {"timeout": 180} | arguments
        before = self.everything()
        plan = self.plan(state, name, **arguments)
        assert self.everything() == before, "a plan changed something"
        if make and state in ("service_running", "service_offered"):
            self.make()
        result = self.loaders.states[f"vcore_swarm.{state}"](name, **arguments)
        assert result.result is succeeds, result.comment
        if succeeds:
            assert plan.changes == result.changes
            assert plan.result is (None if result.changes else True)
        else:
            assert plan.result is not True
            assert result.changes == {}
        assert "first-password" not in json.dumps(result.full_return)
        return result

    def run(self, **differences):
        """Start the service, and wait until it runs."""
        service = self.add(**differences)
        assert self.apply("service_running").changes
        return service

    def service(self, name: str = "tiny") -> dict:
        return self.api.inspect_service(name)

    def everything(self) -> list:
        """Return the ids and version indexes of everything in swarm, which change only when somebody writes."""
        try:
            kinds = [self.api.services(), self.api.configs(), self.api.secrets()]
        except docker.errors.APIError:
            return ["no swarm"]
        networks = [(network["Id"], network["Name"]) for network in self.api.networks()]

        def version(entry: dict) -> str:
            # Swarm itself writes into services while they are updated, as some here are for long.
            ours = "vcore.service" in entry["Spec"]["Labels"]
            return str(entry["Version"]["Index"]) if ours else json.dumps(entry["Spec"], sort_keys=True)

        return [*sorted((entry["ID"], version(entry)) for kind in kinds for entry in kind), *sorted(networks)]

    def containers(self, name: str = "tiny") -> list[str]:
        """Return the ids of a service's running containers."""
        label = f"com.docker.swarm.service.name={name}"
        return sorted(container["Id"] for container in self.api.containers(filters={"label": label}))

    def wait_for_update(self) -> None:
        """Wait until swarm no longer writes into the service, which it does after Docker's command has returned."""
        deadline = time.monotonic() + 60
        while self.service()["UpdateStatus"]["State"] not in ("completed", "rollback_completed"):
            assert time.monotonic() < deadline, self.service()["UpdateStatus"]
            time.sleep(0.2)

    def see(self, path: str, name: str = "tiny") -> str:
        """Return rights and content of a file as the service's container sees it."""
        (container,) = self.containers(name)
        return self.daemon.run(
            f"docker exec {container} busybox stat -c '%u:%g %a' {path}; docker exec {container} cat {path}"
        )


def setup(core: Core) -> None:
    for state in ("initialised", "network_present", "node_labelled"):
        assert core.apply(state, "a sentence").changes
        assert core.apply(state, "a sentence").changes == {}


@pytest.fixture(scope="module")
def daemon():
    with Dockerd() as running:
        for tag in ("one", "two"):
            running.run(BUILD_IMAGE % f"{REGISTRY}/tiny:{tag}")
        running.run("mkdir -p /data/tiny && echo kept > /data/tiny/file")
        yield running


@pytest.fixture
def another_daemon():
    with Dockerd() as running:
        yield running


@pytest.fixture(autouse=True)
def docker_host(request, monkeypatch):
    name = "another_daemon" if "another_daemon" in request.fixturenames else "daemon"
    monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue(name).url)


@pytest.fixture(scope="module")
def swarm(daemon, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.url)
        setup(Core(tmp_path_factory.mktemp("setup"), daemon))
    return daemon


@pytest.fixture
def core(swarm, tmp_path):
    core = Core(tmp_path, swarm)
    yield core
    core.pillar["services"] = {}
    assert core.apply("services_absent", "a sentence").result is True
    assert core.api.services() == core.api.configs() == core.api.secrets() == []


# --- the swarm ---------------------------------------------------------------------------------------------------


def test_the_swarm_lies_where_the_site_wants_it(core):
    information = core.api.info()["Swarm"]
    assert information["NodeAddr"] == core.pillar["node"]["address"]
    listening = core.daemon.run("ss -Hltn | grep -o '[^ ]*:2377 '").split()
    assert listening == [f"{core.pillar['node']['address']}:2377"]
    subnets = {
        network["Name"]: network["IPAM"]["Config"][0]["Subnet"]
        for network in core.api.networks()
        if network["IPAM"]["Config"]
    }
    assert subnets["docker_gwbridge"] == "172.18.1.0/24"
    assert subnets["ingress"] == "172.18.2.0/24"
    assert subnets["virtual_core"] == "172.18.0.0/24"
    assert core.api.inspect_swarm()["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 5


def test_networks_that_are_in_the_way_are_named_before_anything_is_done(another_daemon, tmp_path):
    core = Core(tmp_path, another_daemon)
    another_daemon.run("docker network create --subnet 172.18.2.0/25 mine")
    result = core.apply("initialised", "a sentence", succeeds=False)
    assert "network.ingress_subnet 172.18.2.0/24 overlaps Docker's network mine" in result.comment
    assert "docker network rm mine" in result.comment
    assert core.api.info()["Swarm"]["LocalNodeState"] == "inactive"
    another_daemon.run("docker network rm mine")

    # A bridge of a former swarm is moved once nothing uses it.
    another_daemon.run("docker network create --subnet 172.18.0.0/16 docker_gwbridge")
    result = core.apply("initialised", "a sentence")
    assert result.changes["docker_gwbridge"] == {"old": "172.18.0.0/16", "new": "172.18.1.0/24"}
    assert core.api.inspect_network("docker_gwbridge")["IPAM"]["Config"][0]["Subnet"] == "172.18.1.0/24"

    # An overlay with other settings is made again unless something uses it.
    another_daemon.run("docker network create --driver overlay --subnet 172.18.9.0/24 virtual_core")
    assert core.apply("network_present", "a sentence").changes == {
        "attachable": {"old": False, "new": True},
        "subnet": {"old": "172.18.9.0/24", "new": "172.18.0.0/24"},
    }
    another_daemon.run("docker service create --detach --no-resolve-image --network virtual_core --name mine nothing")
    core.pillar["network"]["subnet"] = "172.18.7.0/24"
    result = core.apply("network_present", "a sentence", succeeds=False)
    assert "in use by mine" in result.comment
    assert "docker network rm virtual_core" in result.comment


def test_labels_are_given_though_swarm_has_written_into_the_node_meanwhile(core):
    (before,) = core.api.nodes()
    client = Swarm()
    (stale,) = client.snapshot().nodes
    core.daemon.run(f"docker node update --label-add theirs=kept {before['ID']}")
    client._set_labels(stale, {"ours": "set"})
    try:
        (labels,) = (node["Spec"]["Labels"] for node in core.api.nodes())
        assert labels == before["Spec"]["Labels"] | {"theirs": "kept", "ours": "set"}
    finally:
        core.daemon.run(f"docker node update --label-rm theirs --label-rm ours {before['ID']}")


def test_a_machine_leaves_its_swarm_with_the_services_of_the_core(another_daemon, tmp_path):
    another_daemon.run(BUILD_IMAGE % f"{REGISTRY}/tiny:one")
    another_daemon.run("mkdir -p /data/tiny && echo kept > /data/tiny/file")
    core = Core(tmp_path, another_daemon)
    setup(core)
    core.run()
    assert core.apply("left", "a sentence").changes == {
        "tiny": {"old": f"tiny:{core.tag}", "new": None},
        "swarm": {"old": "manager", "new": None},
        "docker_gwbridge": {"old": "bridge", "new": None},
    }
    assert core.api.info()["Swarm"]["LocalNodeState"] == "inactive"
    assert core.api.containers() == []
    assert "virtual_core" not in {network["Name"] for network in core.api.networks()}
    assert another_daemon.run("cat /data/tiny/file") == "kept\n"
    assert core.apply("left", "a sentence").changes == {}


def test_a_swarm_that_others_use_stays(another_daemon, tmp_path):
    another_daemon.run(BUILD_IMAGE % f"{REGISTRY}/tiny:one")
    another_daemon.run("mkdir -p /data/tiny")
    core = Core(tmp_path, another_daemon)
    setup(core)
    core.run()
    create = "docker service create --detach --no-resolve-image --name"
    another_daemon.run(f"{create} theirs nothing; {create} swarm nothing; echo x | docker config create tiny-theirs -")
    moved = core.pillar["network"] | {"bridge_subnet": "172.19.1.0/24"}
    core.pillar["network"], before = moved, core.pillar["network"]
    comment = core.apply("initialised", "a sentence", succeeds=False).comment
    assert "put the old value back" in comment and "service theirs" in comment and "uninstall" not in comment
    core.pillar["network"] = before

    result = core.apply("left", "a sentence")
    assert result.changes == {
        "tiny": {"old": f"tiny:{core.tag}", "new": None},
        "virtual_core": {"old": "network", "new": None},
        f"labels of {another_daemon.name}": {"old": {"vcore.node": "head", "vcore.role.head": "true"}, "new": None},
    }
    kept = "The swarm stays, others use it: service "
    assert kept in result.comment and "service theirs" in result.comment and "config tiny-theirs" in result.comment
    assert {service["Spec"]["Name"] for service in core.api.services()} == {"theirs", "swarm"}
    assert [config["Spec"]["Name"] for config in core.api.configs()] == ["tiny-theirs"]
    assert core.api.secrets() == []
    assert "virtual_core" not in {network["Name"] for network in core.api.networks()}
    assert core.api.nodes()[0]["Spec"]["Labels"] == {}
    again = core.apply("left", "a sentence")
    assert again.changes == {} and again.comment.startswith(kept)

    # A network that somebody else's service uses stays, too.
    for state in ("network_present", "node_labelled"):
        assert core.apply(state, "a sentence").changes
    another_daemon.run("docker service update --detach --network-add virtual_core theirs")
    assert set(core.apply("left", "a sentence").changes) == {f"labels of {another_daemon.name}"}
    another_daemon.run("docker service rm theirs swarm; docker config rm tiny-theirs")
    moved = core.pillar["network"] | {"bridge_subnet": "172.19.1.0/24"}
    core.pillar["network"] = moved
    assert "bootstrap.sh --uninstall" in core.apply("initialised", "a sentence", succeeds=False).comment
    assert core.apply("left", "a sentence").changes["swarm"] == {"old": "manager", "new": None}


def test_a_worker_of_another_swarm_is_left_alone(core, another_daemon, tmp_path, monkeypatch):
    token = core.api.inspect_swarm()["JoinTokens"]["Worker"]
    another_daemon.run(f"docker swarm join --token {token} {core.pillar['node']['address']}:2377")
    worker = Core(tmp_path / "worker", another_daemon)
    result = worker.apply("initialised", "a sentence", succeeds=False)
    assert f"managed by {core.pillar['node']['address']}:2377" in result.comment
    assert "docker swarm leave" in result.comment
    worker.add()
    worker.set_image("missing")
    assert "is a worker in another swarm" in worker.apply("service_running", succeeds=False).comment

    # The manager stays while it has a worker. It labels the worker once that is registered as a node, whatever its host
    # is called, and a global service runs on it.
    monkeypatch.setenv("DOCKER_HOST", core.daemon.url)
    assert "the swarm still has other nodes" in core.apply("left", "a sentence", succeeds=False).comment
    identity = another_daemon.run("docker info --format '{{.Swarm.NodeID}}'").strip()
    core.pillar["nodes"]["compute-1"] = {"roles": ["compute"], "swarm_id": None, "hardware": None}
    assert core.apply("node_labelled", "a sentence").changes == {}
    core.pillar["nodes"]["compute-1"] = {"roles": ["compute"], "swarm_id": identity, "hardware": {"cpus": 2}}
    labels = {"vcore.node": "compute-1", "vcore.role.compute": "true"}
    assert core.apply("node_labelled", "a sentence").changes == {
        "compute-1": {label: {"old": None, "new": value} for label, value in labels.items()}
    }
    core.add(mode="global", placement="compute")
    another_daemon.run(BUILD_IMAGE % f"{REGISTRY}/tiny:{core.tag}")
    another_daemon.run("mkdir -p /data/tiny")
    core.apply("service_running")
    assert core.containers() == []
    assert another_daemon.run("docker ps -q --filter label=com.docker.swarm.service.name=tiny").strip()
    overview = core.loaders.modules.vcore_swarm.status()
    assert overview["services"]["tiny"]["running"] == overview["services"]["tiny"]["desired"] == 1
    assert {node["name"]: node["roles"] for node in overview["nodes"]} == {
        "head": ["head"],
        "compute-1": ["compute"],
    }

    # When the site removes a role from a node, the service goes with it.
    core.pillar["nodes"]["compute-1"]["roles"] = []
    assert core.apply("node_labelled", "a sentence").changes == {
        "compute-1": {"vcore.role.compute": {"old": "true", "new": None}}
    }
    another_daemon.run("docker swarm leave")
    connection = Swarm()
    assert connection.remove_members([identity]) == {identity}
    assert connection.remove_members([identity]) == set()  # as a node does that left by itself
    with pytest.raises(VcoreError, match="the head cannot be removed from its own swarm"):
        connection.remove_members([connection.members()[0]])


def node(folder: Path, daemon: Dockerd, head: Core, token: bytes | None) -> Core:
    """Return a node other than the head, with its pillar."""
    worker = Core(folder, daemon)
    worker.pillar["node"] = {"name": "compute-1", "roles": ["compute"], "address": daemon.address, "forgotten": None}
    worker.pillar["head"] = {"name": "head", "address": head.pillar["node"]["address"]}
    worker.pillar["secrets"] = {"swarm": {"join-token": token.decode()}} if token else {}
    return worker


def test_the_join_token_is_kept_as_docker_has_it(core):
    store = Store(core.paths.secrets)
    assert core.apply("join_token_kept", "a sentence").changes == {"join token": {"old": None, "new": "stored"}}
    first = store.read("swarm", "join-token")
    assert first.decode() == core.api.inspect_swarm()["JoinTokens"]["Worker"]
    Swarm().rotate_join_token(store)
    second = store.read("swarm", "join-token")
    assert second != first
    assert second.decode() == core.api.inspect_swarm()["JoinTokens"]["Worker"]
    assert core.apply("join_token_kept", "a sentence").changes == {}
    store.write("swarm", "join-token", first)
    assert core.apply("join_token_kept", "a sentence").changes["join token"]["old"] == "another one"


def test_a_node_joins_and_leaves_the_swarm_of_the_head(core, another_daemon, tmp_path, monkeypatch):
    token = core.api.inspect_swarm()["JoinTokens"]["Worker"].encode()
    head = core.pillar["node"]["address"]
    # Without a token it cannot join, and with a wrong one the manager refuses it.
    lacking = node(tmp_path / "lacking", another_daemon, core, None)
    refused = lacking.apply("joined", "a sentence", succeeds=False).comment
    assert "the secret swarm/join-token has no value yet, or is not for this node" in refused
    worker = node(tmp_path / "worker", another_daemon, core, token)
    assert worker.apply("joined", "a sentence").changes == {
        "swarm": {"old": None, "new": f"worker of {head}"},
        "docker_gwbridge": {"old": None, "new": "172.18.1.0/24"},
    }
    assert worker.apply("joined", "a sentence").changes == {}
    # Once it has joined, it needs no token.
    assert lacking.apply("joined", "a sentence").changes == {}
    assert worker.api.inspect_network("docker_gwbridge")["IPAM"]["Config"][0]["Subnet"] == "172.18.1.0/24"
    (member,) = [entry for entry in core.api.nodes() if not entry.get("ManagerStatus")]
    assert member["Status"] == {"State": "ready", "Addr": another_daemon.address}
    files = [path for path in (tmp_path / "worker").rglob("*") if path.is_file() and path.parent.name != "pillar"]
    assert [path for path in files if token in path.read_bytes()] == []

    # The head has removed it without its knowledge; when the head says so, the node joins again.
    core.daemon.run(f"docker node rm --force {member['ID']}")
    worker.pillar["node"]["forgotten"] = member["ID"]
    assert worker.apply("joined", "a sentence").changes["swarm"]["old"] == FORGOTTEN
    assert worker.apply("joined", "a sentence").changes == {}

    # It leaves, and can join again.
    assert worker.apply("parted", "a sentence").changes == {
        "swarm": {"old": "worker", "new": None},
        "docker_gwbridge": {"old": "bridge", "new": None},
    }
    assert worker.apply("parted", "a sentence").changes == {}
    assert worker.api.info()["Swarm"]["LocalNodeState"] == "inactive"
    worker.apply("joined", "a sentence")
    worker.apply("parted", "a sentence")
    for entry in core.api.nodes():
        if not entry.get("ManagerStatus"):
            core.daemon.run(f"docker node rm --force {entry['ID']}")


def test_a_node_that_is_in_another_swarm_is_left_alone(core, another_daemon, tmp_path):
    token = core.api.inspect_swarm()["JoinTokens"]["Worker"].encode()
    worker = node(tmp_path / "worker", another_daemon, core, token)
    another_daemon.run(f"docker swarm init --advertise-addr {another_daemon.address}")
    while "docker_gwbridge" not in (names := {network["Name"] for network in worker.api.networks()}):
        assert "bridge" in names
        time.sleep(0.2)  # swarm makes its networks after it has started
    refused = worker.apply("joined", "a sentence", succeeds=False).comment
    assert f"this machine manages a swarm of its own (managers: {another_daemon.address}:2377)" in refused
    assert "should be in that of the head" in refused
    # Nor if the head has seen that its own swarm does not have the node.
    worker.pillar["node"]["forgotten"] = worker.api.info()["Swarm"]["NodeID"]
    assert "should be in that of the head" in worker.apply("joined", "a sentence", succeeds=False).comment
    assert "outside Virtual Core" in worker.apply("parted", "a sentence").comment
    assert worker.api.info()["Swarm"]["LocalNodeState"] == "active"


def test_the_routing_mesh_that_docker_left_on_the_bridge_is_not_in_the_way(another_daemon, tmp_path):
    """A daemon that leaves slowly starts the mesh again; a member's mesh stands for it, with the same endpoint."""
    core = Core(tmp_path, another_daemon)
    another_daemon.run(f"docker swarm init --advertise-addr {another_daemon.address}")

    def bridge():
        networks = {network["Name"] for network in core.api.networks()}
        return core.api.inspect_network("docker_gwbridge") if "docker_gwbridge" in networks else {"Containers": {}}

    deadline = time.monotonic() + 30
    while "ingress-sbox" not in bridge()["Containers"]:
        assert time.monotonic() < deadline, "swarm makes its networks after it has started"
        time.sleep(0.2)
    found, wanted = bridge(), "172.18.77.0/24"
    client = Swarm()
    changes = client._bridge_changes(found, wanted)
    assert changes == {"docker_gwbridge": {"old": found["IPAM"]["Config"][0]["Subnet"], "new": wanted}}
    client.create_gateway_bridge(wanted)
    assert bridge()["IPAM"]["Config"][0]["Subnet"] == wanted
    found["Containers"]["f00"] = {"Name": "mine"}
    with pytest.raises(VcoreError, match="is in use; stop its containers"):
        client._bridge_changes(found, wanted)


def test_a_wrong_join_token_is_refused_by_the_manager(core, another_daemon, tmp_path):
    token = core.api.inspect_swarm()["JoinTokens"]["Worker"]
    wrong = token[:-8] + ("a" * 8 if not token.endswith("a" * 8) else "b" * 8)
    worker = node(tmp_path / "worker", another_daemon, core, wrong.encode())
    refused = worker.apply("joined", "a sentence", succeeds=False).comment
    assert "Docker refused" in refused
    assert wrong not in refused


# --- one service -------------------------------------------------------------------------------------------------


def test_a_service_is_created_as_described_and_then_left_alone(core):
    core.add()
    assert core.apply("service_running").changes == {
        "service": {"old": None, "new": "running"},
        "image": {"old": None, "new": f"tiny:{core.tag}"},
        "placement": {"old": None, "new": "vcore.node==head"},
        "ports": {"old": None, "new": ["8080/tcp"]},
        "volumes": {"old": None, "new": ["/data/tiny at /data"]},
        "memory": {"old": None, "new": "limit 64M"},
        "configs": {"authorized_keys": "new", "service.conf": "new"},
        "secrets": {"password": "new"},
        "certificates": {"tls": "new"},
    }
    assert core.see("/etc/tiny/service.conf") == "0:0 444\nhealth: good\nmotto: one\nnetwork: virtual_core\n"
    assert core.see("/etc/virtual-core/authorized_keys") == "0:0 444\nssh-ed25519 AAAA root@example\n"
    assert core.see("/run/secrets/password") == "0:0 400\nfirst-password"
    assert core.see("/tls/key") == f"911:0 400\n{core.leaf('key')}"
    assert core.see("/tls/crt") == f"911:0 444\n{core.leaf('crt')}"
    assert core.see("/tls/ca") == f"911:0 444\n{(core.paths.authority / 'ca.crt').read_text()}"
    assert core.see("/data/file") == "0:0 644\nkept\n"
    assert core.see("/proc/sys/net/ipv4/ip_unprivileged_port_start").split()[-1] == "1024"
    (container,) = core.containers()
    details = core.api.inspect_container(container)
    assert details["Config"]["Hostname"] == "tiny"
    assert "VCORE_SERVICE=tiny" in details["Config"]["Env"]
    assert "CAP_SYS_NICE" in details["HostConfig"]["CapAdd"]
    assert details["HostConfig"]["Memory"] == 64 * 1024**2
    assert details["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    lookup = f"docker run --rm --network virtual_core --entrypoint /bin/busybox {REGISTRY}/tiny:one nslookup tiny"
    assert details["NetworkSettings"]["Networks"]["virtual_core"]["IPAddress"] in core.daemon.run(lookup)
    assert core.daemon.run("ss -ltn | grep -c ':8080 '").strip() != "0"
    assert "first-password" not in json.dumps([details, core.service()])

    before = core.everything()
    assert core.apply("service_running").changes == {}
    assert core.everything() == before
    assert core.containers() == [container]


def test_a_changed_config_rolls_exactly_its_service(core):
    core.add("other", ports={})
    core.apply("service_running", "other")
    core.run()
    other, container = core.containers("other"), core.containers()
    core.pillar["services"]["tiny"]["settings"]["motto"] = "two"
    assert core.apply("service_running").changes == {
        "configs": {
            "service.conf": "--- service.conf\n+++ service.conf\n@@ -1,3 +1,3 @@\n health: good\n"
            "-motto: one\n+motto: two\n network: virtual_core\n"
        }
    }
    assert "motto: two" in core.see("/etc/tiny/service.conf")
    assert core.containers() != container
    assert core.containers("other") == other


def test_secret_certificate_image_and_limits_show_in_words(core):
    service = core.run()
    core.set_password("second-password")
    assert core.apply("service_running").changes == {"secrets": {"password": "changed"}}
    assert core.see("/run/secrets/password").endswith("second-password")
    service["certificates"]["tls"]["names"].append("another.vcore.test")
    before = core.tag
    core.set_image("two")
    service["memory"]["limit"] = 128 * 1024**2
    service["stop_grace"] = 6
    core.pillar["authorized_keys"] = []
    assert core.apply("service_running").changes == {
        "certificates": {"tls": "changed"},
        "image": {"old": f"tiny:{before}", "new": f"tiny:{core.tag}"},
        "memory": {"old": "limit 64M", "new": "limit 128M"},
        "stop_grace": {"old": "5 s", "new": "6 s"},
        "configs": {"authorized_keys": "removed"},
    }
    # Settings that concern only the next update restart nothing.
    container = core.containers()
    service["update"] = "start-first"
    assert core.apply("service_running").changes == {
        "specification": {
            f"{kind}.Order": {"old": "stop-first", "new": "start-first"} for kind in ("RollbackConfig", "UpdateConfig")
        }
    }
    assert core.containers() == container


def test_what_somebody_changes_by_hand_shows_and_is_undone(core):
    core.run()
    core.daemon.run("docker service scale tiny=0")
    status = core.loaders.modules.vcore_swarm.status()["services"]["tiny"]
    assert (status["desired"], status["state"]) == (1, "waiting")
    assert core.apply("service_running").changes == {
        "service": {"old": "not running", "new": "running"},
        "mode": {"old": "replicated, 0 tasks", "new": "replicated"},
    }
    assert len(core.containers()) == 1

    core.daemon.run(
        "echo theirs | docker config create theirs - ; echo theirs | docker secret create theirs -;"
        f"docker service update --quiet --no-resolve-image --image {REGISTRY}/tiny:two"
        " --limit-memory 32M --reserve-memory 16M"
        " --mount-add type=bind,source=/tmp,target=/theirs"
        " --publish-add mode=host,published=8081,target=8080"
        " --config-add source=theirs,target=/theirs.conf --secret-add theirs"
        " --env-add PASSWORD=hunter2 --stop-grace-period 9s --health-retries 7 --network-rm virtual_core tiny"
    )
    core.wait_for_update()
    result = core.apply("service_running")
    changes = result.changes
    assert "hunter2" not in json.dumps(result.full_return)
    assert changes == {
        "image": {"old": "tiny:two", "new": f"tiny:{core.tag}"},
        "memory": {"old": "limit 32M, reservation 16M", "new": "limit 64M"},
        "volumes": {"old": ["/data/tiny at /data", "/tmp at /theirs"], "new": ["/data/tiny at /data"]},
        "ports": {"old": ["8080/tcp", "8081/tcp to 8080"], "new": ["8080/tcp"]},
        "configs": {"theirs": "removed"},
        "secrets": {"theirs": "removed"},
        "environment": {"old": ["PASSWORD", "VCORE_SERVICE=tiny"], "new": ["VCORE_SERVICE=tiny"]},
        "stop_grace": {"old": "9 s", "new": "5 s"},
        "health": {
            "old": "every 1 s, timeout 5 s, 7 retries, start period 1 s",
            "new": "every 1 s, timeout 5 s, 1 retries, start period 1 s",
        },
        "network": {"old": [], "new": ["virtual_core"]},
    }
    assert core.apply("service_running").changes == {}
    core.daemon.run("docker service update --quiet --force tiny")  # changes nothing that the core sets
    core.wait_for_update()
    assert core.apply("service_running").changes == {}
    # A rollback would no longer need them, but they belonged to somebody else.
    core.set_password("second-password")
    core.apply("service_running")
    core.set_password("third-password")
    core.apply("service_running")
    core.daemon.run("docker config rm theirs; docker secret rm theirs")


def test_superseded_configs_and_secrets_go_once_a_rollback_does_not_need_them(core):
    core.run()
    for password in ("second", "third"):
        core.set_password(f"{password}-password")
        core.apply("service_running")
        service = core.service()
        mounted = [service[key]["TaskTemplate"]["ContainerSpec"]["Secrets"] for key in ("Spec", "PreviousSpec")]
        kept = {reference["SecretName"] for references in mounted for reference in references}
        assert {secret["Spec"]["Name"] for secret in core.api.secrets()} == kept
        assert len(kept) == 3  # the key, and two passwords
    assert len(core.api.configs()) == 4  # service.conf, authorized_keys, certificate, authority
    # What somebody else rolled back is applied again.
    core.daemon.run("docker service rollback tiny")
    core.wait_for_update()
    assert core.apply("service_running").changes == {"secrets": {"password": "changed"}}
    # The leftovers of an interrupted run go with the next one, though that changes nothing else.
    labels = {"vcore.service": "tiny", "vcore.item": "left"}
    core.api.create_config("tiny-left-000000000000", b"left", labels=labels)
    assert core.apply("service_running").changes == {}
    assert len(core.api.configs()) == 4


def test_a_failed_update_goes_back_and_fails_again(core):
    service = core.run()
    running = core.service()["Spec"]["Labels"]["vcore.spec"]
    service["settings"]["health"] = "bad"
    for _ in range(2):
        result = core.apply("service_running", succeeds=False)
        assert "the service tiny does not run well" in result.comment
        assert "the container ended by itself" in result.comment
        assert "went back to the specification before, which runs" in result.comment
        assert "the password is (secret)" in result.comment
        assert "the config says health: bad" in result.comment
        assert core.service()["Spec"]["Labels"]["vcore.spec"] == running
        assert "health: good" in core.see("/etc/tiny/service.conf")
    service["settings"]["health"] = "good"
    assert core.apply("service_running").changes == {}
    service["settings"]["motto"] = "two"
    assert list(core.apply("service_running").changes) == ["configs"]


def test_a_failed_first_deployment_is_gone_on_from(core):
    service = core.add()
    service["settings"]["health"] = "dead"
    result = core.apply("service_running", succeeds=False)
    assert "non-zero exit (3)" in result.comment
    assert "the password is (secret)" in result.comment
    result = core.apply("service_running", succeeds=False)
    assert "non-zero exit (3)" in result.comment
    service["settings"]["health"] = "good"
    changes = core.apply("service_running").changes
    assert changes["service"] == {"old": "not running", "new": "running"}
    assert "+health: good" in changes["configs"]["service.conf"]
    assert core.apply("service_running").changes == {}
    assert len(core.api.services()) == 1


def test_a_missing_image_and_an_unknown_label_are_told(core):
    service = core.add()
    core.set_image("missing")
    assert "No such image" in core.apply("service_running", succeeds=False).comment
    core.set_image("one")
    service["node"] = "elsewhere"
    comment = core.apply("service_running", succeeds=False, timeout=5).comment
    assert "after 5 seconds" in comment
    assert "no suitable node" in comment


def test_what_does_not_exist_yet_fails_before_the_first_side_effect(core):
    core.add()
    core.make()
    before = core.everything()
    core.set_image("two")
    (core.paths.authority / "issued" / "tiny" / "tls.key").unlink()
    assert "tls.key does not exist yet" in core.apply("service_running", succeeds=False, make=False).comment
    core.make()
    (core.paths.services / "tiny" / "files" / "service.conf.j2").write_text("one\n{{ settings.missing }}\n")
    comment = core.apply("service_running", succeeds=False).comment
    assert "service.conf.j2, line 2: 'dict object' has no attribute 'missing'" in comment
    assert core.everything() == before


def test_somebody_elses_service_is_left_alone(core):
    core.add()
    core.daemon.run("docker service create --detach --no-resolve-image --name tiny nothing")
    try:
        assert "did not create" in core.apply("service_running", succeeds=False).comment
        core.pillar["services"] = {}
        assert core.apply("services_absent", "a sentence").changes == {}
    finally:
        core.daemon.run("docker service rm tiny")


def test_a_service_that_is_switched_off_goes_and_its_data_stays(core):
    core.run()
    core.add("other", ports={})
    core.apply("service_running", "other")
    tiny = core.pillar["services"].pop("tiny")
    assert core.apply("services_absent", "a sentence", keep=["tiny"]).changes == {}
    assert core.apply("services_absent", "a sentence").changes == {"tiny": {"old": f"tiny:{core.tag}", "new": None}}
    assert core.containers() == []
    assert [service["Spec"]["Name"] for service in core.api.services()] == ["other"]
    assert {config["Spec"]["Labels"]["vcore.service"] for config in core.api.configs()} == {"other"}
    assert {secret["Spec"]["Labels"]["vcore.service"] for secret in core.api.secrets()} == {"other"}
    core.pillar["services"]["tiny"] = tiny
    assert core.apply("service_running").changes
    assert core.see("/data/file") == "0:0 644\nkept\n"


def test_pruning_leaves_what_a_service_can_go_back_to(another_daemon, tmp_path):
    another_daemon.run(BUILD_IMAGE % f"{REGISTRY}/tiny:one")
    tags = f"for tag in two three; do docker tag {REGISTRY}/tiny:one {REGISTRY}/tiny:$tag; done"
    another_daemon.run(f"mkdir -p /data/tiny; {tags}")
    core = Core(tmp_path, another_daemon)
    setup(core)
    service = core.run()
    good = core.tag
    core.set_image("two")
    service["settings"]["health"] = "bad"
    core.apply("service_running", succeeds=False)
    failed = core.tag

    def run() -> dict:
        """Plan a run of both states and apply it; return what is pruned."""
        core.write_pillar()
        core.loaders.reload_all()
        planned = core.loaders.modules.state.sls("run", test=True).raw
        core.make()
        done, again = (core.loaders.modules.state.sls("run").raw for _ in range(2))
        changes = [[entry["changes"] for entry in result.values()] for result in (planned, done, again)]
        assert all(entry["result"] for entry in done.values()), done
        assert changes[0] == changes[1] and changes[1][0]
        assert changes[2] == [{}, {}]
        return changes[1][1]

    states = core.folder / "salt" / "states"
    states.mkdir()
    (states / "run.sls").write_text("tiny: {vcore_swarm.service_running: []}\nimages: {vcore_image.pruned: []}\n")

    core.set_image("three")
    service["settings"]["health"] = "good"
    another_daemon.run(f"docker tag {REGISTRY}/tiny:three {REGISTRY}/tiny:{core.tag}")
    pruned = run()["docker"]
    assert {"tiny:one", "tiny:two", "tiny:three"} <= set(pruned)
    assert not {f"tiny:{tag}" for tag in (good, failed, core.tag)} & set(pruned)
    # If only the config changed, swarm would go back to the same image.
    service["settings"]["motto"] = "two"
    another_daemon.run(f"docker tag {REGISTRY}/tiny:{core.tag} {REGISTRY}/tiny:three")
    assert set(run()["docker"]) == {"tiny:three", f"tiny:{good}"}


# --- interruptions -----------------------------------------------------------------------------------------------


def test_a_process_killed_before_it_creates_the_service_is_gone_on_from(core):
    core.add()
    core.make()
    script = f"""
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(CHECKOUT / "salt" / "_utils")!r})
from vcore.base.paths import Paths
from vcore.swarm.deployment import wanted
from vcore.base.errors import VcoreError
from vcore.swarm.membership import Swarm
paths = Paths(**{{k: Path(v) for k, v in {core.opts["virtual_core"]!r}.items()}})
pillar = json.loads(sys.stdin.read())
client = Swarm()
client._send = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
plan = client.plan(wanted("tiny", pillar=pillar, paths=paths))
client.apply(plan, paths=paths, authorization=None, timeout=60)
"""
    killed = subprocess.run([sys.executable, "-c", script], input=json.dumps(core.pillar), text=True)
    assert killed.returncode == -signal.SIGKILL
    left = {config["ID"] for config in core.api.configs()}
    assert len(left) == 4
    assert core.api.services() == []
    core.apply("service_running")
    assert {config["ID"] for config in core.api.configs()} == left
    assert len(core.api.services()) == len(core.containers()) == 1


def test_a_daemon_killed_in_the_middle_is_gone_on_from(core):
    core.add()
    core.make()
    core.write_pillar()
    results = []
    thread = threading.Thread(target=lambda: results.append(core.loaders.states.vcore_swarm.service_running("tiny")))
    thread.start()
    deadline = time.monotonic() + 30
    while not core.api.services():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    core.daemon.kill()
    thread.join(60)
    assert results[0].result is False
    assert "the Docker daemon does not answer" in results[0].comment
    core.daemon.start()
    result = core.loaders.states.vcore_swarm.service_running("tiny")
    assert result.result is True, result.comment
    assert core.apply("service_running").changes == {}
    assert len(core.api.services()) == len(core.containers()) == 1


# --- what it costs, and what it shows ----------------------------------------------------------------------------


def test_nothing_to_do_is_quick(core):
    core.run()
    client = Swarm()

    def nothing_to_do() -> bool:
        client.changed()  # the first state of a run; later ones share what it listed
        return client.plan(wanted("tiny", pillar=core.pillar, paths=core.paths)).changes == {}

    assert nothing_to_do()
    seconds = least_seconds(nothing_to_do, times=10)
    print(f"nothing to do: {seconds * 1000:.0f} ms")
    assert seconds < 0.06


def test_status_says_what_runs_with_a_fixed_number_of_requests(core, monkeypatch):
    core.run()
    status = core.loaders.modules.vcore_swarm.status()
    assert status["swarm"] == "active"
    (node,) = status["nodes"]
    assert (node["name"], node["roles"], node["state"], node["leader"]) == ("head", ["head"], "ready", True)
    tiny = status["services"]["tiny"]
    assert {key: tiny[key] for key in ("image", "desired", "running", "healthy", "state")} == {
        "image": f"tiny:{core.tag}",
        "desired": 1,
        "running": 1,
        "healthy": 1,
        "state": "settled",
    }
    assert tiny["since"].startswith("20")
    assert core.loaders.modules.vcore_swarm.services() == {"tiny": f"tiny:{core.tag}"}

    def requests() -> int:
        asked = []
        client = Swarm()
        client.api.hooks["response"].append(lambda *_, **__: asked.append(1))
        client.overview()
        return len(asked)

    with_one = requests()
    core.add("other", ports={})
    core.apply("service_running", "other")
    assert requests() == with_one


def test_inspect_shows_the_wanted_specification_without_values(core):
    core.add()
    core.write_pillar()
    core.loaders.reload_all()
    spec = core.loaders.modules.vcore_swarm.inspect("tiny")
    assert spec["TaskTemplate"]["ContainerSpec"]["Hostname"] == "tiny"
    assert list(spec["Labels"]) == ["vcore.service"]
    assert "first-password" not in json.dumps(spec)
    assert spec["TaskTemplate"]["ContainerSpec"]["Image"] == f"{REGISTRY}/tiny:{core.tag}"
    with pytest.raises(salt.exceptions.SaltInvocationError, match="the site has no service nothing; it has tiny"):
        core.loaders.modules.vcore_swarm.inspect("nothing")


def test_without_a_daemon_the_state_says_what_to_do(core, monkeypatch):
    core.add()
    core.make()
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    core.write_pillar()
    result = core.loaders.states.vcore_swarm.service_running("tiny")
    assert result.result is False
    assert "systemctl start docker" in result.comment
    monkeypatch.setenv("DOCKER_HOST", core.daemon.url)


# --- services that are rolled -------------------------------------------------------------------------------------


class Queue:
    """A stand-in for SLURM in a roll: its jobs end after a few looks, and it records the order of what was done."""

    def __init__(self, jobs: int = 0) -> None:
        self.left, self.seen = jobs, []

    def drain(self, node: str) -> bool:
        self.seen.append("drain")
        return True

    def jobs(self, node: str) -> list[str]:
        self.left -= 1
        return ["7"] if self.left >= 0 else []

    def started(self, node: str) -> int | None:
        return None

    def is_back(self, node: str, before: int | None) -> bool:
        return True

    def release(self, node: str) -> None:
        self.seen.append("release")


def rolled(core: Core) -> str:
    """Start a service that is rolled; return the id of its container."""
    core.add(mode="global", placement="head", rolled=True, ports={})
    assert core.apply("service_offered").changes
    return wait_for_container(core)


def wait_for_container(core: Core, other: str = "") -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = [
            entry["Id"]
            for entry in core.api.containers()
            if entry["Names"][0].startswith("/tiny-") and entry["Id"] != other
        ]
        if found:
            return found[0]
        time.sleep(0.3)
    pytest.fail("no container")


def roll(core: Core, queue: Queue, **more) -> list[str]:
    said: list[str] = []
    done = rolling.roll("tiny", pillar=core.pillar, paths=core.paths, queue=queue, say=said.append, **more)
    return [*done, *said]


def test_an_update_of_a_rolled_service_waits_for_the_roll_which_waits_for_jobs(core, monkeypatch):
    monkeypatch.setattr(rolling, "STEP", 0.2)
    before = rolled(core)
    core.set_image("two")
    offered = core.apply("service_offered")
    assert offered.changes["service"] == {"old": "an older one", "new": "offered"}
    assert "image" in offered.changes
    assert "salt-run vcore.roll_compute" in offered.comment
    again = core.apply("service_offered")
    assert again.changes == {}
    assert "waits for head" in again.comment
    # The nodes' labels are right meanwhile, and nothing runs that the site does not want.
    assert core.apply("node_labelled", "a sentence").changes == {}
    assert core.apply("services_absent", "a sentence").changes == {}
    time.sleep(2)
    assert wait_for_container(core) == before
    assert Swarm().overview()["services"]["tiny"]["running"] == 1
    queue = Queue(jobs=3)
    done = roll(core, queue)
    assert done[0] == "head"
    assert "head waits for its jobs: 7" in done
    assert queue.seen == ["drain", "release"]
    assert queue.left < 0
    assert wait_for_container(core, before) != before
    assert len([service for service in core.api.services() if service["Spec"]["Name"].startswith("tiny-")]) == 1
    last = core.apply("service_offered")
    assert (last.changes, "waits for" in last.comment) == ({}, False)
    assert roll(core, Queue()) == []


def test_a_node_that_does_not_come_back_runs_the_one_before_and_ends_the_roll(core, monkeypatch):
    monkeypatch.setattr(rolling, "STEP", 0.2)
    rolled(core)
    core.pillar["services"]["tiny"]["settings"]["health"] = "dead"
    core.apply("service_offered")
    queue = Queue()
    with pytest.raises(VcoreError, match=r"not come back with the new tiny: .*; it runs the one before again"):
        roll(core, queue, start=90)
    assert queue.seen == ["drain", "release"]
    assert "health: good" in core.daemon.run(f"docker exec {wait_for_container(core)} cat /etc/tiny/service.conf")
    # The site still wants the generation that did not come up, but a new node does not get it by itself.
    assert "waits for head" in core.apply("service_offered").comment
    with pytest.raises(VcoreError, match="still has jobs after 1 seconds"):
        roll(core, Queue(jobs=10**6), patience=1)
    core.pillar["services"]["tiny"]["settings"]["health"] = "good"
    assert "waits for" not in core.apply("service_offered").comment
    assert core.apply("services_absent", "a sentence").changes == {}
