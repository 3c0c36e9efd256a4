"""SLURM for tests: real images of a controller, compute nodes and a host for people, beside a directory."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from vcore.base.secrets import Store, generate
from vcore.kernel import resolve as kernel_resolve
from vcore.services import templates
from vcore.storage import mounting, places

from support import sites
from support.containers import execute
from support.directory import Core
from support.file_router import Connection, octets, person_dn
from support.images import CHECKOUT, build

CONTROLLER, COMPUTE = "slurm-controller", "slurm-compute"
PEOPLE = {"ada": 10001, "bob": 10002}
GROUP = 10000
SUFFIX = "dc=vcore,dc=test"

sys.path.insert(0, str(CHECKOUT / "salt" / "_grains"))


def hardware(**more: Any) -> dict[str, Any]:
    """Return the hardware facts of this machine from the grain; they are the same in all containers."""
    import vcore_hardware  # type: ignore[import-not-found]

    facts: dict[str, Any] = vcore_hardware.vcore_hardware()["vcore_hardware"]
    return {**facts, "cgroups": "none", **more}


class Network:
    """A Docker network of this run's own, with addresses that are known before anything runs on it."""

    def __init__(self, api: Any) -> None:
        self.api = api
        for _ in range(20):
            self.prefix = f"10.{random.randrange(224, 255)}.{random.randrange(256)}"
            pool = docker.types.IPAMPool(subnet=f"{self.prefix}.0/24", gateway=f"{self.prefix}.1")
            self.name = f"virtual-core-test-{self.prefix.replace('.', '-')}"
            try:
                self.id = api.create_network(
                    self.name, driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool])
                )["Id"]
                return
            except docker.errors.APIError:
                continue  # others test on this machine, too
        pytest.fail("no free network")

    def address(self, number: int) -> str:
        """Return an address on the network."""
        return f"{self.prefix}.{number}"

    def remove(self) -> None:
        """Remove the network; its containers have to be gone."""
        self.api.remove_network(self.id)


class SlurmCore(Core):
    """A core with a directory, SLURM's controller, nodes, and a host where people submit jobs."""

    def __init__(self, folder: Path, nodes: int = 2, slurm: dict[str, Any] | None = None) -> None:
        self.slurm = {"mode": "managed", "default_memory_per_cpu": "100M", **(slurm or {})}
        self.network: Network | None = None
        self.containers: dict[str, str] = {}
        self.enrolled: dict[str, Any] = {}
        self.count = nodes
        super().__init__(folder)

    # -- the site

    def site(self, settings: dict[str, Any]) -> str:
        """Return the site file."""
        found = yaml.safe_load(super().site(settings))
        found["vcore"]["slurm"] = self.slurm
        if self.network:
            found["vcore"]["nodes"]["head"]["address"] = self.network.address(100)
        # Accounting has tests of its own; with it slurmctld waits for slurmdbd.
        found["vcore"].setdefault("services", {})["slurm-accounting"] = {"enabled": False}
        found["vcore"]["site"] = {"domain": "vcore.test"}
        return yaml.safe_dump(found, sort_keys=False)

    def _pillar(self, settings: dict[str, Any]) -> dict[str, Any]:
        address = self.network.address(100) if self.network else "127.0.0.1"
        everything = sites.resolved(
            self.folder / "site", self.site(settings), head_address=address, enrolled=self.enrolled
        )
        pillar = kernel_resolve.node_pillar(everything, "head")
        pillar["services"]["ldap"]["ports"]["ldaps"]["number"] = self.port
        return pillar

    def change(self, **slurm: Any) -> None:
        """Resolve the site anew, after a change of its section ``slurm``."""
        self.slurm |= slurm
        self.pillar = self._pillar({})

    def enrol(self, name: str, number: int, **more: Any) -> None:
        """Register a node, and resolve the pillar anew."""
        self.enrolled[name] = {
            "roles": ["compute"],
            "enrolled": 1764150000,
            "by": "token",
            "address": self.network.address(number),
            "swarm_id": f"id-{name}",
            "hardware": hardware(**more),
            "code": None,
            "forgotten": None,
            "retiring": False,
        }
        self.pillar = self._pillar({})

    # -- containers

    def volume(self, service: str, name: str) -> Path:
        """Return the path of a volume of a service on this machine."""
        return Path(self.pillar["services"][service]["volumes"][name]["source"])

    def run(
        self,
        name: str,
        image: str,
        number: int,
        service: str,
        volumes: dict[str, str],
        *,
        capabilities: tuple[str, ...] = (),
        healthy: bool = True,
        start: bool = True,
    ) -> str:
        """Start a container with the files that swarm would give it; ``volumes`` maps host folders to paths."""
        self.remove_one(name)
        definition = self.pillar["services"][service]
        binds = {source: (target, "rw") for source, target in volumes.items()}
        rendered = self.folder / "rendered" / service
        rendered.mkdir(parents=True, exist_ok=True)
        authority = (self.paths.authority / "ca.crt").read_text()
        names = {**templates.context(definition, self.pillar, ""), "authority": {"certificate": authority}}
        for item, config in definition["configs"].items():
            text = templates.render(templates.folder(service, config, self.paths), config["template"], names)
            # In the network of these tests the directory is on its own port.
            (rendered / item).write_bytes(text.replace(f"ldap.vcore.test:{self.port}".encode(), b"ldap.vcore.test"))
            binds[str(rendered / item)] = (config["path"], "ro")
        for item, secret in definition["secrets"].items():
            source = Store(self.paths.secrets).path(secret["service"] or service, item)
            binds[str(source)] = (secret["path"], "ro")
        self.containers[name] = self.api.create_container(
            build(image),
            hostname=name,
            labels={"com.docker.swarm.service.name": service},
            networking_config=self.api.create_networking_config(
                {
                    self.network.name: self.api.create_endpoint_config(
                        aliases=[name], ipv4_address=self.network.address(number)
                    )
                }
            ),
            host_config=self.api.create_host_config(
                binds={source: {"bind": target, "mode": mode} for source, (target, mode) in binds.items()},
                cap_add=list(capabilities or definition["capabilities"]),
                network_mode=self.network.name,
            ),
        )["Id"]
        if start:
            self.api.start(self.containers[name])
            if healthy:
                self.wait_healthy(name)
        return self.containers[name]

    def start_controller(self, *, healthy: bool = True) -> None:
        """Start a new container of the controller on its volumes."""
        for volume in ("state", "configuration"):
            self.volume(CONTROLLER, volume).mkdir(parents=True, exist_ok=True)
        volumes = {str(self.volume(CONTROLLER, "state")): "/var/lib/slurm"}
        volumes[str(self.volume(CONTROLLER, "configuration"))] = "/etc/slurm"
        self.run(CONTROLLER, CONTROLLER, 100, CONTROLLER, volumes, healthy=healthy)

    def start_node(self, name: str, number: int, devices: tuple[str, ...] = (), *, image: str = COMPUTE) -> None:
        """Start a compute node; ``devices`` are made in its container before slurmd looks for them."""
        node = self.folder / "nodes" / name
        node.mkdir(parents=True, exist_ok=True)
        (node / "name").unlink(missing_ok=True)
        volumes = {str(node): "/etc/virtual-core/node", str(self.home()): "/home", str(self.data_folder()): "/data"}
        self.run(name, image, number, COMPUTE, volumes, healthy=False)
        for minor, device in enumerate(devices):
            self.on(name, "mknod", device, "c", "195", str(minor))
        (node / "name").write_text(f"{name}\n")

    def home(self) -> Path:
        """Return the folder of the homes that all containers share."""
        folder = self.folder / "data" / "storage" / "home"
        self.mark(folder, "home")
        for name, number in PEOPLE.items():
            if not (folder / name).exists():
                (folder / name).mkdir(parents=True)
                (folder / name).chmod(0o700)
                import os

                os.chown(folder / name, number, GROUP)
        return folder

    def data_folder(self) -> Path:
        """Return the folder of the data that all containers share."""
        folder = self.folder / "data" / "storage" / "data"
        self.mark(folder, "data")
        return folder

    def mark(self, folder: Path, kind: str) -> None:
        """Mark a folder as the storage for which the nodes look."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / mounting.MARKER).exists():
            (folder / mounting.MARKER).write_text(
                places.marker(self.pillar["storage"], self.pillar["site"]["domain"], kind)
            )

    def wait_healthy(self, name: str, timeout: float = 180) -> float:
        """Wait until a container is healthy, and return the seconds that it took."""
        began, answer = time.monotonic(), (1, "")
        while time.monotonic() - began < timeout:
            if not self.api.inspect_container(self.containers[name])["State"]["Running"]:
                break
            answer = self.on(name, "/sbin/server_health.sh")
            if answer[0] == 0:
                return time.monotonic() - began
            time.sleep(0.2)
        pytest.fail(f"{name} does not start: {answer[1]}\n{self.logs_of(name)}")

    def on(self, name: str, *command: str, user: str = "", folder: str = "/") -> tuple[int, str]:
        """Run a program in a container, and return exit code and output."""
        return execute(self.api, self.containers[name], *command, user=user, workdir=folder)

    def logs_of(self, name: str) -> str:
        """Return a container's log."""
        return self.api.logs(self.containers[name]).decode(errors="replace")

    def remove_one(self, name: str) -> None:
        """Remove a container; folders stay."""
        if container := self.containers.pop(name, None):
            self.api.remove_container(container, force=True)

    # -- people

    def as_person(self, who: str, command: str, *, check: bool = True) -> str:
        """Run a shell command as a person in their home on the host for people, and return its output."""
        words = ["runuser", "-u", who, "--", "env", f"HOME=/home/{who}", "sh", "-c", command]
        code, output = self.on("login", *words, folder=f"/home/{who}")
        if check and code:
            pytest.fail(f"{command}: exit code {code}\n{output}\n{self.logs_of(CONTROLLER)[-3000:]}")
        return output

    def start_login(self) -> None:
        """Start a host on which people submit jobs: the image slurm with sackd."""
        volumes = {str(self.home()): "/home", str(self.data_folder()): "/data"}
        # The login host's service would get the same files as a compute node.
        self.run("login", "slurm", 101, COMPUTE, volumes, healthy=False, capabilities=("SYS_NICE",))
        for _ in range(100):
            if self.on("login", "getent", "passwd", "ada")[0] == 0:
                break
            time.sleep(0.1)
        program = "/usr/lib/virtual-core/programs/sackd.conf"
        self.on(
            "login",
            "sh",
            "-c",
            f"cp {program} /etc/supervisor/conf.d/ && until supervisorctl update; do sleep 0.2; done",
        )
        end = time.monotonic() + 160
        while time.monotonic() < end:
            if self.on("login", "scontrol", "ping")[0] == 0:
                return
            time.sleep(0.2)
        pytest.fail(f"sackd does not start\n{self.logs_of('login')}")

    # -- all of it

    def nodes(self) -> dict[str, Any]:
        """Return the nodes as slurmctld shows them."""
        from vcore.slurm import queue

        return queue.show_nodes(self.pillar)

    def wait_for(self, names: list[str], *states: str, timeout: float = 160) -> float:
        """Wait until nodes are in one of these states without flags, and return the seconds that it took."""
        began = time.monotonic()
        found: dict[str, Any] = {}
        while time.monotonic() - began < timeout:
            found = self.nodes()
            if all(name in found and found[name]["state"] in states and not found[name]["flags"] for name in names):
                return time.monotonic() - began
            time.sleep(0.2)
        logs = "\n".join(self.logs_of(name)[-2000:] for name in (*names, CONTROLLER) if name in self.containers)
        pytest.fail(f"{names} are not {states}: {json.dumps(found, indent=1)}\n{logs}")

    def prepare(self) -> None:
        """Start the directory with two people, and make the secrets."""
        self.make_secrets()
        self.make_authority()
        store = Store(self.paths.secrets)
        store.write(CONTROLLER, "key", generate("bytes", 1024))
        self.network = Network(self.api)
        self.start()
        self.api.connect_container_to_network(self.container, self.network.id, aliases=["ldap", "ldap.vcore.test"])
        from vcore.directory import client

        with client.open_administrator(self.pillar, self.paths) as connection:
            client.apply(self.pillar, self.paths, connection, client.plan(self.pillar, self.paths, connection))
        connection = Connection(self)
        for name, number in PEOPLE.items():
            connection.add(
                person_dn(name),
                objectClass=["inetOrgPerson", "posixAccount", "shadowAccount"],
                uid=name,
                cn=name.title(),
                sn=name.title(),
                uidNumber=number,
                gidNumber=GROUP,
                homeDirectory=f"/home/{name}",
                loginShell="/bin/bash",
            )
        connection.add(
            f"cn=genomics,ou=groups,{SUFFIX}",
            objectClass=["posixGroup", "vcoreMemberGroup"],
            cn="genomics",
            gidNumber=10500,
            memberUid=octets("ada")[0].decode(),
            member=person_dn("ada"),
        )
        connection.close()
        # From here on the head is the controller, on the network of the nodes.
        self.pillar = self._pillar({})

    def take_down(self) -> None:
        """Remove everything but the folders."""
        for name in list(self.containers):
            self.remove_one(name)
        self.remove()
        if self.network:
            self.network.remove()
