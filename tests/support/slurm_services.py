"""SLURM's services for tests: real images of accounting, controller and node in containers beside a directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from vcore.base.secrets import Store, generate
from vcore.people import accounts
from vcore.services import templates
from vcore.slurm import configuration as slurm_configuration
from vcore.slurm import service as slurm_service

from support.containers import execute
from support.directory import write_pillar
from support.file_router import FileCore, Network
from support.images import build, machine

NODE = "compute-1"
HARDWARE = {
    "sockets": 1, "cores_per_socket": 2, "threads_per_core": 1, "cpus": 2, "memory_mib": 2048, "scratch_mib": 10240,
    "gpus": [], "cgroups": "none",
}  # fmt: skip
SERVICES = ("slurm-accounting", "slurm-controller", "slurm-compute")


class Subnet(Network):
    """A network whose containers can be given addresses, which Docker only allows if the subnet was asked for."""

    def __init__(self, api: Any) -> None:
        super().__init__(api)
        self.remove()
        pool = docker.types.IPAMPool(subnet=self.subnet, gateway=f"{self.subnet.rsplit('.', 1)[0]}.1")
        self.id = api.create_network(self.name, driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]))[
            "Id"
        ]


class SlurmCore(FileCore):
    """A core with a directory, accounting, a controller and a node, on a network whose gateway is the head."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.slurm = settings
        self.containers: dict[str, str] = {}
        # By id: the tests of another checkout may reuse the names meanwhile.
        self.images = {service: machine().inspect_image(build(service))["Id"] for service in SERVICES}
        super().__init__(folder, shares={}, instruments={})

    def site(self, settings: dict[str, Any]) -> str:
        found = yaml.safe_load(super().site(settings))
        found["vcore"]["slurm"] = self.slurm
        if self.network is not None:
            found["vcore"]["nodes"][NODE] = {"roles": ["compute"], "address": self.address(9)}
        return yaml.safe_dump(found)

    def start(self, configuration: str | None = None, *, wait: bool = True) -> None:
        if self.network is None:
            self.network = Subnet(self.api)
        super().start(configuration, wait=wait)

    @property
    def directory(self) -> str:
        """The address of the directory's container."""
        networks = self.api.inspect_container(self.container)["NetworkSettings"]["Networks"]
        return str(networks[self.network.name]["IPAddress"])

    @property
    def gateway(self) -> str:
        return self.address(1)

    def address(self, number: int) -> str:
        """Return an address on the network; the first is this machine's, which is the head here."""
        return f"{self.network.subnet.rsplit('.', 1)[0]}.{number}"

    def settle_pillar(self) -> None:
        """Resolve the pillar of the current site, with the ports of these tests."""
        self.pillar = self._pillar({})
        self.pillar["services"]["ldap"]["ports"]["ldaps"]["number"] = self.port
        self.pillar["nodes"][NODE]["hardware"] = HARDWARE
        if (self.folder / "pillar").exists():
            write_pillar(self)

    def seen_by_containers(self) -> dict[str, Any]:
        """Return the pillar, with the head at an address that the network knows, too."""
        pillar = json.loads(json.dumps(self.pillar))
        pillar["nodes"]["head"]["address"] = self.gateway
        controller = pillar["slurm"]["controller"].replace("127.0.0.1", self.gateway)
        pillar["slurm"]["controller"] = controller
        return pillar

    def source(self, service: str, volume: str) -> Path:
        return Path(self.pillar["services"][service]["volumes"][volume]["source"])

    def run(self, service: str, *, wait: bool = True) -> None:
        """Start a new container of a service on its volumes, as swarm does for each new task."""
        self.end(service)
        definition = self.pillar["services"][service]
        binds: dict[str, tuple[str, str]] = {}
        for volume in definition["volumes"].values():
            place = Path(volume["source"])
            if not place.exists():
                place.mkdir(parents=True)
                os.chown(place, volume["owner"], volume["group"])
                place.chmod(int(volume["mode"], 8))
            binds[str(place)] = (volume["path"], "rw")
        rendered = self.folder / "rendered" / service
        rendered.mkdir(parents=True, exist_ok=True)
        authority = (self.paths.authority / "ca.crt").read_text()
        names = {**templates.context(definition, self.pillar, ""), "authority": {"certificate": authority}}
        # On this network the directory has the port that it listens on, not the one that it is published at.
        names["services"] = json.loads(json.dumps(names["services"]))
        names["services"]["ldap"]["ports"]["ldaps"]["number"] = 636
        names |= {name: self.seen_by_containers()[name] for name in ("nodes", "slurm")}
        for name, config in definition["configs"].items():
            (rendered / name).unlink(missing_ok=True)
            content = (
                slurm_service.content(config)
                if "file" in config
                else templates.render(templates.folder(service, config, self.paths), config["template"], names)
            )
            (rendered / name).write_bytes(content)
            os.chown(rendered / name, config["owner"], config["group"])
            (rendered / name).chmod(int(config["mode"], 8))
            binds[str(rendered / name)] = (config["path"], "ro")
        for name, secret in definition["secrets"].items():
            if secret["path"]:
                source = Store(self.paths.secrets).path(secret["service"] or service, name)
                binds[secret.get("file", str(source))] = (secret["path"], "ro")
        published = {port["number"]: (self.gateway, port["number"]) for port in definition["ports"].values()}
        compute = service == "slurm-compute"
        self.create(
            service,
            self.images[service],
            NODE if compute else service,
            binds,
            address=self.address(9) if compute else None,
            published={} if compute else published,
            capabilities=definition["capabilities"],
            memory=definition["memory"]["limit"],
        )
        if wait:
            self.wait_for(service)

    def create(
        self,
        service: str,
        image: str,
        hostname: str,
        binds: dict[str, tuple[str, str]],
        *,
        address: str | None = None,
        published: dict[int, tuple[str, int]] | None = None,
        capabilities: list[str] | None = None,
        memory: int | None = None,
    ) -> None:
        """Start a container under the name of a service."""
        endpoint = self.api.create_endpoint_config(aliases=[service], ipv4_address=address)
        self.containers[service] = self.api.create_container(
            image,
            hostname=hostname,
            labels={"com.docker.swarm.service.name": service},
            ports=list(published or {}),
            networking_config=self.api.create_networking_config({self.network.name: endpoint}),
            host_config=self.api.create_host_config(
                binds={source: {"bind": target, "mode": mode} for source, (target, mode) in binds.items()},
                port_bindings=published or {},
                cap_add=capabilities,
                extra_hosts={"ldap.vcore.test": self.directory},
                mem_limit=memory,
                network_mode=self.network.name,
            ),
        )["Id"]
        self.api.start(self.containers[service])

    def end(self, service: str) -> None:
        """End a service as swarm does, if it runs; its volumes stay."""
        if service in self.containers:
            self.api.stop(self.containers[service], timeout=20)
            self.api.remove_container(self.containers.pop(service), force=True)

    def wait_for(self, service: str, timeout: float = 240) -> None:
        def health() -> tuple[int, str]:
            if self.api.inspect_container(self.containers[service])["State"]["Running"]:
                return self.on(service, "/sbin/server_health.sh")
            logs = self.api.logs(self.containers[service]).decode(errors="replace")
            pytest.fail(f"{service} has ended:\n{logs[-3000:]}")

        self.eventually(health, lambda answer: answer[0] == 0, timeout)

    def on(self, service: str, *command: str, user: str = "") -> tuple[int, str]:
        """Run a program in the container of a service, and return exit code and output."""
        return execute(self.api, self.containers[service], *command, user=user)

    def sql(self, statement: str) -> str:
        code, output = self.on("slurm-accounting", "mariadb", "--batch", "--skip-column-names", "-e", statement)
        assert code == 0, output
        return output

    def configure_slurm(self) -> None:
        """Write slurm.conf and its files, as the brain makes them, to where slurmctld reads them."""
        place = self.source("slurm-controller", "configuration")
        place.mkdir(parents=True, exist_ok=True)
        for name, content in slurm_configuration.files(self.seen_by_containers()).items():
            # Its program belongs to the nodes, which these tests do not prepare.
            lines = [line for line in content.decode().splitlines() if not line.startswith("HealthCheck")]
            (place / name).write_text("\n".join([*lines, ""]))

    def bring_up_people(self) -> None:
        """Start the directory, and add people and groups."""
        super(FileCore, self).bring_up()
        self.settle_pillar()
        with accounts.opened(self.pillar, self.paths) as ours:
            ours.group_add("sequencing", {})
            ours.group_add("statistics", {})
        self.add_person("ada", 10001, password="Chosen-by-ada-1")
        self.add_person("grace", 10002, password="Chosen-by-grace-1")
        self.add_person("charles", 10003, password="Chosen-by-charles-1")
        with accounts.opened(self.pillar, self.paths) as ours:
            ours.group_modify("sequencing", {}, add=["ada"])
            ours.group_modify("statistics", {}, add=["ada", "grace"])

    def make_key(self) -> None:
        """Generate the cluster's key as the states do."""
        for name, definition in self.pillar["services"]["slurm-controller"]["secrets"].items():
            if definition["service"] is None:
                secret = generate(definition["kind"], definition["length"])
                Store(self.paths.secrets).write("slurm-controller", name, secret)

    def bring_up_slurm(self, before_the_controller: Callable[[], None]) -> None:
        """Start the services in the order of the states."""
        self.run("slurm-accounting")
        before_the_controller()
        self.configure_slurm()
        self.run("slurm-controller")
        self.run_node()

    def run_node(self, *, wait: bool = True) -> None:
        """Start the compute node with the name that a state would give it."""
        node = self.source("slurm-compute", "node")
        node.mkdir(parents=True, exist_ok=True)
        (node / "name").write_text(f"{NODE}\n")
        self.run("slurm-compute", wait=wait)

    def take_down(self) -> None:
        for service in list(self.containers):
            self.api.remove_container(self.containers.pop(service), force=True)
        super().take_down()

    # -- people at work

    def submit(self, name: str, *options: str, script: str = "true", place: str = "slurm-compute") -> tuple[int, str]:
        """Run ``sbatch`` as a person, and return exit code and output."""
        words = " ".join((*options, f"--wrap '{script}'"))
        command = f"cd /tmp && exec sbatch --parsable --output /dev/null --mem 64 {words}"
        # Docker knows the people of the image's own files only.
        become = ["setpriv", f"--reuid={name}", "--regid=people", "--init-groups"]
        return self.on(place, *become, "bash", "-c", command)

    def job(self, name: str, *options: str, script: str = "true") -> str:
        """Submit a job that has to be accepted, and return its number."""
        code, output = self.submit(name, *options, script=script)
        assert code == 0, output
        return output.strip()

    def accounted(self, job: str) -> list[str]:
        """Return person, account and state of a job in accounting."""
        code, output = self.on(
            "slurm-compute", "sacct", "-X", "-n", "-P", "-a", "-j", job, "--format=User,Account,State"
        )
        assert code == 0, output
        return output.strip().split("|")

    def ended(self, job: str) -> list[str]:
        return self.eventually(
            lambda: self.accounted(job), lambda row: row[-1].startswith(("COMPLETED", "FAILED", "CANCELLED")), 40
        )

    @staticmethod
    def eventually(ask: Callable[[], Any], good: Callable[[Any], bool], timeout: float = 120) -> Any:
        end = time.monotonic() + timeout
        while not good(answer := ask()):
            if time.monotonic() > end:
                pytest.fail(f"not in {timeout} seconds; the last answer was {answer!r}")
            time.sleep(0.2)
        return answer
