"""The login host for tests: its real image beside a directory, a file router and a SLURM of two nodes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from vcore.base.secrets import Store
from vcore.services import templates

from support.containers import execute
from support.directory import build_image, free_port
from support.file_router import FileCore
from support.images import build

SERVICE, CONTROLLER, COMPUTE = "login", "slurm-controller", "slurm-compute"
NODES = ("node-1", "node-2")
MARKER = ".virtual-core-storage"
#: Containers have their names on the network in place of addresses; the rest is as vcore.slurm.configuration has it.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=slurm-controller
AuthType=auth/slurm
CredType=cred/slurm
AuthInfo=use_client_ids
SlurmUser=slurm
SlurmctldParameters=enable_configless
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld/slurmctld.pid
SlurmctldLogFile=/run/slurmctld/log
SlurmdPidFile=/run/slurmd.pid
MailProg=/usr/bin/true
MpiDefault=none
SrunPortRange=61001-61063
ProctrackType=proctrack/linuxproc
PrologFlags=Contain
PropagateResourceLimits=NONE
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=sched_min_interval=100000
NodeName=node-1 NodeAddr=node-1 CPUs=2 State=UNKNOWN
NodeName=node-2 NodeAddr=node-2 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES OverSubscribe=FORCE:8 MaxTime=INFINITE State=UP
"""


class LoginCore(FileCore):
    """A core with a login host, whose people may have 256 MiB and 64 processes there."""

    def __init__(self, folder: Path) -> None:
        self.login_host = ""
        self.slurm: dict[str, str] = {}
        self.login_port = free_port()
        super().__init__(folder, shares={}, instruments={})

    def site(self, settings: dict[str, Any]) -> str:
        """Return the site file, with a batch queue."""
        found = yaml.safe_load(super().site(settings))
        found["vcore"]["slurm"] = {"mode": "managed"}
        found["vcore"]["services"][SERVICE] = {
            "settings": {"memory": "256M", "processes": 64, "message": "Maintenance on Monday."}
        }
        return yaml.safe_dump(found)

    def bring_up(self) -> None:
        """Start everything; the login host comes before the controller."""
        super().bring_up()
        secret = self.pillar["services"][CONTROLLER]["secrets"]["key"]
        Store(self.paths.secrets).write(CONTROLLER, "key", b"k" * secret["length"])
        (self.volume("home") / MARKER).touch()
        self.start_login()
        configuration = self.folder / "slurm"
        configuration.mkdir()
        (configuration / "slurm.conf").write_text(SLURM_CONF)
        (configuration / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        self.slurm[CONTROLLER] = self._start(CONTROLLER, CONTROLLER, {str(configuration): ("/etc/slurm", "rw")}, [])
        for node in NODES:
            names = self.folder / node
            names.mkdir()
            (names / "name").write_text(f"{node}\n")
            binds = {str(names): ("/etc/virtual-core/node", "ro"), **self._homes()}
            self.slurm[node] = self._start(COMPUTE, node, binds, ["SYS_ADMIN", "SYS_NICE"])
        self.wait_until("two nodes are idle", lambda: self.on_login("sinfo", "-h", "-o", "%D %T")[1] == "2 idle\n")

    def start_login(self) -> None:
        """Start the login host, and wait until it is healthy."""
        definition = self.pillar["services"][SERVICE]
        state = self.folder / "login-state"
        state.mkdir(exist_ok=True)
        self.login_host = self._start(
            SERVICE, SERVICE, {str(state): ("/var/lib/virtual-core", "rw"), **self._homes()}, definition["capabilities"]
        )
        self.wait_until("the login host is healthy", lambda: self.on_login("/sbin/server_health.sh")[0] == 0)

    def _homes(self) -> dict[str, tuple[str, str]]:
        return {str(self.volume(name)): (f"/{name}", "rw") for name in ("home", "data")}

    def _start(self, service: str, name: str, binds: dict[str, tuple[str, str]], capabilities: list[str]) -> str:
        definition = self.pillar["services"][service]
        rendered = self.folder / f"rendered-{name}"
        rendered.mkdir(exist_ok=True)
        authority = (self.paths.authority / "ca.crt").read_text()
        names = {
            **templates.context(self.pillar["services"][SERVICE], self.pillar, ""),
            "authority": {"certificate": authority},
            "slurm": {**self.pillar["slurm"], "controller": f"{CONTROLLER}:6817"},
        }
        # Nodes are on their own network otherwise, and have another name for the directory.
        for config, entry in self.pillar["services"][SERVICE]["configs"].items():
            folder = templates.folder(SERVICE, entry, self.paths)
            (rendered / config).write_bytes(templates.render(folder, entry["template"], names))
            binds[str(rendered / config)] = (entry["path"], "ro")
        for secret, entry in definition["secrets"].items():
            source = Store(self.paths.secrets).path(entry["service"] or service, secret)
            binds[str(source)] = (entry["path"], "ro")
        assert self.network is not None
        container = str(
            self.api.create_container(
                build(service),
                hostname=name,
                ports=[2022],
                networking_config=self.api.create_networking_config(
                    {self.network.name: self.api.create_endpoint_config(aliases=[name])}
                ),
                host_config=self.api.create_host_config(
                    binds={source: {"bind": target, "mode": mode} for source, (target, mode) in binds.items()},
                    port_bindings={2022: ("127.0.0.1", self.login_port)} if service == SERVICE else {},
                    cap_add=capabilities,
                    sysctls=definition["sysctls"],
                    mem_limit=definition["memory"]["limit"],
                    network_mode=self.network.name,
                ),
            )["Id"]
        )
        self.api.start(container)
        return container

    def on_login(self, *command: str, user: str = "") -> tuple[int, str]:
        """Run a program in the login host's container, and return exit code and output."""
        return execute(self.api, self.login_host, *command, user=user)

    def on_node(self, node: str, *command: str) -> tuple[int, str]:
        """Run a program as root in a node's container, and return exit code and output."""
        return execute(self.api, self.slurm[node], *command)

    def login(self, name: str, *command: str, **more: Any) -> tuple[int, str]:
        """Log in to the login host, as :meth:`ssh` does to the file router."""
        return self.ssh(name, *command, port=self.login_port, **more)

    def wait_until(self, what: str, holds: Any, timeout: float = 180) -> None:
        """Wait until something holds."""
        end = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > end:
                containers = [self.login_host, *self.slurm.values()]
                logs = "\n".join(self.api.logs(name, tail=30).decode(errors="replace") for name in containers)
                pytest.fail(f"not after {timeout} seconds: {what}\n{logs}")
            time.sleep(0.2)

    def take_down(self) -> None:
        """Remove everything but the folders."""
        for container in (self.login_host, *self.slurm.values()):
            if container:
                self.api.remove_container(container, force=True, v=True)
        super().take_down()


@pytest.fixture(scope="module")
def login_core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginCore]:
    """A core with a login host and two nodes that serve."""
    build_image()
    core = LoginCore(tmp_path_factory.mktemp("login"))
    try:
        core.bring_up()
        yield core
    finally:
        core.take_down()
        shutil.rmtree(core.folder / "slurm", ignore_errors=True)
