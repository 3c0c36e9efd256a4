"""A real slapd for tests: the project's image in a container of this machine's Docker, with a core around it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import ldap
import pytest
from vcore.base.errors import Unreachable
from vcore.base.paths import Paths
from vcore.base.secrets import Store, generate
from vcore.directory import client, entries
from vcore.host.containers import SERVICE_LABEL
from vcore.services import templates

from support import sites
from support.containers import execute
from support.images import CHECKOUT, build, machine, reference

SERVICE = CHECKOUT / "salt" / "states" / "services" / "ldap"
SUFFIX = "dc=vcore,dc=test"
ADMINISTRATOR = f"cn=admin,{SUFFIX}"
IMAGE = reference("ldap")


def build_image() -> str:
    """Build the image from this checkout; Docker's own layer cache makes the second time quick."""
    if not shutil.which("openssl"):
        pytest.fail("openssl is missing: apt-get install openssl")
    return build("ldap")


def free_port() -> int:
    """Return a port of the loopback address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Core:
    """A site with a directory below ``folder``: its pillar, authority, secrets and volume, and the container."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.paths = Paths(CHECKOUT, folder / "etc", folder / "state")
        self.port = free_port()
        self.container: str | None = None
        self.api = machine()
        self.pillar = self._pillar(settings)
        self.data = Path(self.pillar["services"]["ldap"]["volumes"]["data"]["source"])
        self.make_volume()

    def site(self, settings: dict[str, Any]) -> str:
        """Return the site file, with these settings of the directory."""
        lines = "".join(f"        {name}: {value}\n" for name, value in settings.items())
        return (
            f"vcore:\n  base_directory: {self.folder}/data\n  nodes:\n    head:\n      roles: [head]\n"
            "      address: 127.0.0.1\n" + (f"  services:\n    ldap:\n      settings:\n{lines}" if lines else "")
        )

    def _pillar(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the external pillar of a head at 127.0.0.1 whose directory is published on a free port."""
        pillar = sites.pillar(self.folder / "site", self.site(settings))
        pillar["services"]["ldap"]["ports"]["ldaps"]["number"] = self.port
        return pillar

    def make_volume(self) -> None:
        """Make the data folder as the states do."""
        definition = self.pillar["services"]["ldap"]["volumes"]["data"]
        self.data.mkdir(parents=True)
        os.chown(self.data, definition["owner"], definition["group"])
        self.data.chmod(int(definition["mode"], 8))

    def make_secrets(self) -> None:
        """Generate the secrets of the service as the states do."""
        for name, definition in self.pillar["services"]["ldap"]["secrets"].items():
            Store(self.paths.secrets).write("ldap", name, generate(definition["kind"], definition["length"]))

    def make_authority(self) -> None:
        """Make a throwaway authority, and the directory's certificate."""
        self.paths.authority.mkdir(parents=True)
        ca, leaf = self.paths.authority / "ca", self.folder / "leaf"
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"]
        extensions = ("basicConstraints=critical,CA:false", "subjectAltName=DNS:ldap,DNS:ldap.vcore.test,IP:127.0.0.1")
        issuer = ["-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-addext", extensions[0], "-addext", extensions[1]]
        for target, more in ((ca, []), (leaf, issuer)):
            command = ["openssl", *new, "-keyout", f"{target}.key", "-out", f"{target}.crt", *more]
            subprocess.run(command, check=True, capture_output=True)
        os.chown(f"{leaf}.key", 911, 911)
        Path(f"{leaf}.key").chmod(0o400)

    def password(self, name: str = "admin") -> str:
        """Return a stored password."""
        return Store(self.paths.secrets).read("ldap", f"{name}-password").decode()

    def configuration(self) -> str:
        """Return config.ldif as the swarm config contains it."""
        names = templates.context(self.pillar["services"]["ldap"], self.pillar, "")
        return templates.render(SERVICE / "files", "config.ldif.j2", names).decode()

    def start(self, configuration: str | None = None, *, wait: bool = True) -> None:
        """Start a new container on the volume, as swarm does for each new task."""
        self.remove()
        config = self.folder / f"config-{time.monotonic_ns()}.ldif"
        config.write_text(configuration or self.configuration())
        service = self.pillar["services"]["ldap"]
        certificate, secret = service["certificates"]["tls"], service["secrets"]["admin-password"]
        mounts = {
            self.data: service["volumes"]["data"]["path"],
            config: service["configs"]["config.ldif"]["path"],
            self.folder / "leaf.crt": certificate["certificate"],
            self.folder / "leaf.key": certificate["key"],
            self.paths.authority / "ca.crt": certificate["authority"],
            Store(self.paths.secrets).path("ldap", "admin-password"): secret["path"],
        }
        self.container = self.api.create_container(
            IMAGE,
            ports=[636, 389],
            labels={SERVICE_LABEL: "ldap"},
            host_config=self.api.create_host_config(
                binds={
                    str(source): {"bind": target, "mode": "rw" if source == self.data else "ro"}
                    for source, target in mounts.items()
                },
                port_bindings={service["ports"]["ldaps"]["target"] or 636: ("127.0.0.1", self.port)},
                mem_limit=service["memory"]["limit"],
            ),
        )["Id"]
        self.api.start(self.container)
        if wait:
            self.wait()

    def wait(self, timeout: float = 120) -> float:
        """Wait for the first bind as the administrator, and return the seconds that it took."""
        began = time.monotonic()
        while time.monotonic() - began < timeout:
            try:
                client.open_administrator(self.pillar, self.paths).close()
                return time.monotonic() - began
            except Unreachable:
                if not self.api.inspect_container(self.container)["State"]["Running"]:
                    break
                time.sleep(0.05)
        pytest.fail(f"the directory does not start:\n{self.logs()}")

    def kill(self) -> None:
        """End the container as a power cut does."""
        self.api.kill(self.container, "SIGKILL")
        self.api.wait(self.container, timeout=30)

    def exited(self, timeout: int = 30) -> int:
        """Wait for the container to end by itself, and return its exit code."""
        return self.api.wait(self.container, timeout=timeout)["StatusCode"]

    def logs(self) -> str:
        """Return the container's log."""
        return self.api.logs(self.container).decode(errors="replace")

    def execute(self, *command: str) -> tuple[int, str]:
        """Run a program in the container: exit code and output."""
        return execute(self.api, self.container, *command)

    def remove(self) -> None:
        """Remove the container; the volume stays."""
        if self.container:
            self.api.remove_container(self.container, force=True)
            self.container = None

    def bind(self, dn: str = ADMINISTRATOR, password: str | None = None) -> ldap.ldapobject.LDAPObject:
        """Return a plain python-ldap connection, verified and bound, for anything that a test wants to try."""
        connection = ldap.initialize(entries.uri(self.pillar))
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, 5)
        connection.set_option(ldap.OPT_TIMEOUT, 10)
        connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        connection.set_option(ldap.OPT_X_TLS_CACERTFILE, str(self.paths.authority / "ca.crt"))
        connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        connection.simple_bind_s(dn, self.password() if password is None else password)
        return connection

    def bring_up(self) -> None:
        """Start a directory with the core's own entries."""
        self.make_secrets()
        self.make_authority()
        self.start()
        with client.open_administrator(self.pillar, self.paths) as connection:
            client.apply(self.pillar, self.paths, connection, client.plan(self.pillar, self.paths, connection))


def loaders(core: Core) -> Any:
    """Return Salt's real loaders for a minion that is the head of this core; each state reads its pillar anew."""
    import salt.config
    from saltfactories.utils.functional import Loaders

    roots = core.folder / "pillar"
    roots.mkdir(exist_ok=True)
    (roots / "top.sls").write_text("base: {'*': [vcore]}\n")
    write_pillar(core)
    opts = salt.config.DEFAULT_MINION_OPTS.copy()
    opts |= {
        "id": "head",
        "root_dir": str(core.folder),
        "cachedir": str(core.folder / "cache"),
        "extension_modules": str(core.folder / "cache" / "extmods"),
        "conf_file": str(core.folder / "minion"),
        "file_client": "local",
        "file_roots": {"base": [str(CHECKOUT / "salt" / "states")]},
        "pillar_roots": {"base": [str(roots)]},
        "module_dirs": [str(CHECKOUT / "salt")],
        # The loader would take salt/states, which holds SLS files, for the folder of state modules.
        "states_dirs": [str(CHECKOUT / "salt" / "_states")],
        "virtual_core": {
            "checkout": str(CHECKOUT),
            "configuration": str(core.paths.configuration),
            "state": str(core.paths.state),
        },
    }
    return Loaders(opts)


def write_pillar(core: Core) -> None:
    """Give the pillar of the core to its loaders; JSON is YAML."""
    (core.folder / "pillar" / "vcore.sls").write_text("#!yaml\n" + json.dumps({"vcore": core.pillar}))
