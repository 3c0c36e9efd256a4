"""The file router for tests: its real image in a container beside the directory's, and a container with clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap
import pytest
import yaml
from vcore.base.files import write_atomic
from vcore.base.secrets import Store
from vcore.directory import samba_ids
from vcore.file_router import configuration as file_router_configuration
from vcore.file_router import ganesha
from vcore.file_router.names import SECRET_FILE
from vcore.services import templates

from support.containers import execute
from support.directory import SUFFIX, Core, build_image, free_port
from support.images import build, build_client

SERVICE = "file-router"
#: What the site of these tests serves; the networks are filled in.
SHARES: dict[str, Any] = {
    "runs": {"write": ["@people"], "nfs": [{"hosts": "{network}", "access": "rw", "any_port": True}]},
    "software": {
        "read": ["@people"],
        "mode": "2775",
        "nfs": [{"hosts": "{network}", "access": "ro", "any_port": True}],
    },
    "private": {"nfs": [{"hosts": "192.0.2.0/24", "access": "rw"}]},
}
INSTRUMENTS = {"sequencer": {"share": "runs"}}


class Network:
    """A Docker network of this run's own."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.name = f"virtual-core-test-{uuid.uuid4().hex[:8]}"
        self.id = api.create_network(self.name, driver="bridge")["Id"]
        self.subnet = api.inspect_network(self.id)["IPAM"]["Config"][0]["Subnet"]

    def remove(self) -> None:
        """Remove the network; its containers have to be gone."""
        self.api.remove_network(self.id)


class FileCore(Core):
    """A core with a directory and a file router on a network where they have their names."""

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None, **more: Any) -> None:
        self.file_settings = {"workgroup": "GENOMICS", **(settings or {})}
        self.shares = more.pop("shares", SHARES)
        self.instruments = more.pop("instruments", INSTRUMENTS)
        self.network: Network | None = None
        self.router: str | None = None
        self.clients: str | None = None
        self.router_port = free_port()
        super().__init__(folder, **more)

    def site(self, settings: dict[str, Any]) -> str:
        """Return the site file, with the file router on it."""
        found = yaml.safe_load(super().site(settings))
        found["vcore"].setdefault("services", {})[SERVICE] = {"enabled": True, "settings": self.file_settings}
        network = self.network.subnet if self.network else "10.0.0.0/8"
        shares = json.loads(json.dumps(self.shares).replace("{network}", network))
        found["vcore"] |= {"shares": shares, "instruments": self.instruments}
        return yaml.safe_dump(found)

    # -- the directory

    def start(self, configuration: str | None = None, *, wait: bool = True) -> None:
        """Start the directory, under its name on the network."""
        super().start(configuration, wait=wait)
        if self.network is None:
            self.network = Network(self.api)
            port = self.port
            self.pillar = self._pillar({})
            self.pillar["services"]["ldap"]["ports"]["ldaps"]["number"] = self.port = port
        self.api.connect_container_to_network(self.container, self.network.id, aliases=["ldap"])

    def add_group(self, name: str, number: int, *members: str) -> None:
        """Add a group of people."""
        with contextlib.closing(Connection(self)) as connection:
            connection.add(
                f"cn={name},ou=groups,{SUFFIX}",
                objectClass=["posixGroup", "vcoreMemberGroup"],
                cn=name,
                gidNumber=number,
                memberUid=list(members),
                member=[person_dn(member) for member in members],
            )

    def add_person(
        self,
        name: str,
        number: int,
        *,
        password: str,
        group: int = 10000,
        first: bool = False,
        keys: list[str] | None = None,
    ) -> None:
        """Add a person as the core does; with ``first`` the password has to be changed."""
        with contextlib.closing(Connection(self)) as connection:
            connection.add(
                person_dn(name),
                objectClass=["inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey", "sambaSamAccount"],
                uid=name,
                cn=name.title(),
                sn=name.title(),
                uidNumber=number,
                gidNumber=group,
                homeDirectory=f"/home/{name}",
                loginShell="/bin/bash",
                sshPublicKey=keys,
                sambaSID=samba_ids.person_sid(SUFFIX, number),
                sambaAcctFlags="[U          ]",
            )
            connection.passwd(name, password, first=first)

    def modify_person(self, name: str, **values: Any) -> None:
        """Replace attributes of a person; None removes one."""
        with contextlib.closing(Connection(self)) as connection:
            connection.replace(person_dn(name), **values)

    # -- the file router

    def volume(self, name: str) -> Path:
        """Return the path of a volume of the file router on this machine."""
        return Path(self.pillar["services"][SERVICE]["volumes"][name]["source"])

    def configure(self, **files: str) -> None:
        """Write the configuration as the brain makes it; ``files``, named with _ for . and -, replace its own."""
        for name, content in {**self.wanted(), "settle.json": json.dumps(self.settle())}.items():
            key = name.replace(".", "_").replace("-", "_")
            mode = 0o600 if name == SECRET_FILE else 0o644
            write_atomic(self.volume("configuration") / name, files.get(key, content).encode(), mode=mode)

    def wanted(self) -> dict[str, str]:
        """Return the files of the configuration; exports keep their numbers."""
        path = self.volume("configuration") / "ganesha.conf"
        numbers = ganesha.numbers_in(path.read_text()) if path.exists() else {}
        return {
            name: data.decode() for name, data in file_router_configuration.wanted(self.pillar, numbers).content.items()
        }

    def settle(self) -> dict[str, Any]:
        """Return settle.json: what the container creates by itself."""
        settings: dict[str, Any] = json.loads(self.wanted()["settle.json"])
        return settings

    def make_volumes(self) -> None:
        """Make the folders of the volumes as the states do."""
        for name, definition in self.pillar["services"][SERVICE]["volumes"].items():
            self.volume(name).mkdir(parents=True, exist_ok=True)
            self.volume(name).chmod(int(definition["mode"], 8))

    def start_router(self, *, wait: bool = True) -> None:
        """Start a new container of the file router on the volumes, as swarm does for each new task."""
        self.remove_router()
        definition = self.pillar["services"][SERVICE]
        binds = {str(self.volume(name)): (entry["path"], "rw") for name, entry in definition["volumes"].items()}
        rendered = self.folder / "rendered"
        rendered.mkdir(exist_ok=True)
        authority = (self.paths.authority / "ca.crt").read_text()
        names = {**templates.context(definition, self.pillar, ""), "authority": {"certificate": authority}}
        for name, config in definition["configs"].items():
            folder = templates.folder(SERVICE, config, self.paths)
            (rendered / name).write_bytes(templates.render(folder, config["template"], names))
            binds[str(rendered / name)] = (config["path"], "ro")
        for name, secret in definition["secrets"].items():
            source = Store(self.paths.secrets).path(secret["service"] or SERVICE, name)
            if secret["path"] and source.exists():
                binds[str(source)] = (secret["path"], "ro")
        self.router = self.api.create_container(
            build(SERVICE),
            hostname=SERVICE,
            labels={"com.docker.swarm.service.name": SERVICE},
            ports=[2022, 445, 2049],
            networking_config=self.api.create_networking_config(
                {self.network.name: self.api.create_endpoint_config(aliases=[SERVICE])}
            ),
            host_config=self.api.create_host_config(
                binds={source: {"bind": target, "mode": mode} for source, (target, mode) in binds.items()},
                port_bindings={2022: ("127.0.0.1", self.router_port)},
                cap_add=definition["capabilities"],
                sysctls=definition["sysctls"],
                mem_limit=definition["memory"]["limit"],
                network_mode=self.network.name,
            ),
        )["Id"]
        self.api.start(self.router)
        if wait:
            self.wait_for_router()

    def wait_for_router(self, timeout: float = 160) -> float:
        """Wait until the file router is healthy, and return the seconds that it took."""
        began, answer = time.monotonic(), (1, "")
        while time.monotonic() - began < timeout:
            if not self.api.inspect_container(self.router)["State"]["Running"]:
                break
            answer = self.on_router("/sbin/server_health.sh")
            if answer[0] == 0:
                return time.monotonic() - began
            time.sleep(0.1)
        pytest.fail(f"the file router does not start: {answer[1]}\n{self.router_logs()}")

    def on_router(self, *command: str, user: str = "") -> tuple[int, str]:
        """Run a program in the file router's container, and return exit code and output."""
        return execute(self.api, self.router, *command, user=user)

    def router_logs(self) -> str:
        """Return the log of the file router's container."""
        return self.api.logs(self.router).decode(errors="replace")

    def remove_router(self) -> None:
        """Remove the file router's container; the volumes stay."""
        if self.router:
            self.api.remove_container(self.router, force=True)
            self.router = None

    # -- the clients

    def on_client(self, *command: str) -> tuple[int, str]:
        """Run a program in the container with smbclient, ssh and NFS clients, and return exit code and output."""
        return execute(self.api, self.client(), *command)

    def client(self) -> str:
        """Return the container of the clients, which is started on first use."""
        if self.clients is None:
            self.clients = self.api.create_container(
                build_client(),
                host_config=self.api.create_host_config(network_mode=self.network.name),
                networking_config=self.api.create_networking_config(
                    {self.network.name: self.api.create_endpoint_config()}
                ),
            )["Id"]
            self.api.start(self.clients)
        return self.clients

    def nfs(self, path: str, uid: int = 10001, gid: int = 10000) -> str:
        """Return the address of a path for libnfs's programs."""
        return f"nfs://{SERVICE}/{path}?version=4&uid={uid}&gid={gid}"

    def ssh(
        self,
        name: str,
        *command: str,
        password: str = "",
        key: Path | None = None,
        options: tuple[str, ...] = (),
        port: int | None = None,
        data: str = "",
    ) -> tuple[int, str]:
        """Log in to the file router, or to ``port``, from this machine, and return exit code and both outputs.

        ``options`` are more options of ssh, ``data`` is the input.
        """
        settings = {
            "UserKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "no",
            "LogLevel": "ERROR",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "NumberOfPasswordPrompts": "1",
            "ConnectTimeout": "10",
            "PreferredAuthentications": "publickey" if key else "password",
        }
        arguments = [word for option, value in settings.items() for word in ("-o", f"{option}={value}")]
        arguments += ["-i", str(key)] if key else []
        # ssh asks a program for the password where there is no terminal.
        askpass = self.folder / "askpass"
        askpass.write_text('#!/bin/sh\nprintf "%s\\n" "$PASSWORD"\n')
        askpass.chmod(0o700)
        where = ["-p", str(port or self.router_port)]
        done = subprocess.run(
            ["ssh", "-F", "none", *where, *options, *arguments, f"{name}@127.0.0.1", *command],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force", "PASSWORD": password},
        )
        return done.returncode, done.stdout

    # -- all of it

    def bring_up(self) -> None:
        """Start the directory with its entries, and the file router with its configuration."""
        super().bring_up()
        self.make_volumes()
        self.configure()
        self.start_router()

    def take_down(self) -> None:
        """Remove everything but the folders."""
        self.remove_router()
        if self.clients:
            self.api.remove_container(self.clients, force=True)
        self.remove()
        if self.network:
            self.network.remove()


class Connection:
    """The administrator's connection to the directory, with the few calls that tests need."""

    def __init__(self, core: Core) -> None:
        self.connection = core.bind()

    def add(self, dn: str, **values: Any) -> None:
        """Add an entry; attributes without a value are left out."""
        self.connection.add_s(dn, [(name, octets(value)) for name, value in values.items() if octets(value)])

    def replace(self, dn: str, **values: Any) -> None:
        """Replace attributes; None removes one."""
        self.connection.modify_s(dn, [(ldap.MOD_REPLACE, name, octets(value)) for name, value in values.items()])

    def passwd(self, name: str, password: str, *, first: bool = False) -> None:
        """Set a person's password; with ``first`` it has to be changed."""
        self.connection.passwd_s(person_dn(name), None, password)
        self.replace(person_dn(name), pwdReset="TRUE" if first else None)

    def close(self) -> None:
        """Close the connection."""
        self.connection.unbind_s()


def person_dn(name: str) -> str:
    """Return the DN of a person."""
    return f"uid={name},ou=people,{SUFFIX}"


def octets(value: Any) -> list[bytes]:
    """Return a value, a list of values or None as python-ldap expects them."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [str(entry).encode() for entry in values]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileCore]:
    """A core with a directory and a file router that serve."""
    build_image()
    core = FileCore(tmp_path_factory.mktemp("files"))
    try:
        core.bring_up()
        yield core
    finally:
        core.take_down()
