"""A live master and three minions: the head, a compute node, and a stranger that the site does not name.

They run from a copy of the checkout, so that tests can write pillar/site.sls, and with the files that bootstrap.sh
installs: etc/master.conf and etc/minion.conf with their placeholders filled in, and keys made and accepted before the
daemons start. Options that have to differ here, ports and folders, are in a separate file.

In the copy, the states of the roles only write one file below the minion's own folder, because no test may turn this
machine into the head of a core.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config
import yaml
from saltfactories.manager import FactoriesManager
from vcore import bootstrap
from vcore.base.paths import Paths

HEAD, COMPUTE, STRANGER = MINIONS = ("head", "compute-1", "stranger")

# 198.18.0.0/15 is kept for benchmarks (RFC 2544): no host has a route to it.
SITE = """\
vcore:
  site: {domain: core.test, organization: Department of Tests}
  base_directory: /srv/core-test
  network: {subnet: 198.18.0.0/24, bridge_subnet: 198.18.1.0/24, ingress_subnet: 198.18.2.0/24}
  nodes:
    head: {roles: [head], address: 10.0.0.1}
    compute-1: {roles: [compute], address: 10.0.0.2}
  services:
    ldap: {node: compute-1}
    file-router: {enabled: false}
    directory-web: {enabled: false}
"""

ROLE = """\
This node was converged:
  file.managed:
    - name: {{ opts["root_dir"] }}/converged
    - contents: {{ pillar["vcore"]["site"]["organization"] | json }}
"""


class Core:
    """The daemons, their folders, and the commands that people type."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkout = root / "checkout"
        self.master = root / "master"

    @property
    def site(self) -> Path:
        """The site file that the master reads."""
        return self.checkout / "pillar" / "site.sls"

    def folder(self, minion: str) -> Path:
        """The root_dir of a minion."""
        return self.root / minion

    def converged(self) -> dict[str, str]:
        """Return what the states of the roles have written, by minion."""
        files = {minion: self.folder(minion) / "converged" for minion in MINIONS}
        return {minion: path.read_text().strip() for minion, path in files.items() if path.exists()}

    def paths(self, minion: str = HEAD) -> Paths:
        """Return the core's folders on a minion; the master has the head's."""
        configuration = "configuration" if minion == HEAD else f"configuration-{minion}"
        return Paths(self.checkout, self.root / configuration, self.folder(minion) / "state")

    def options(self, minion: str | None = None) -> dict[str, Any]:
        """Return what Salt has read from the configuration of a minion, or of the master."""
        if minion is None:
            return salt.config.master_config(str(self.master / "conf" / "master"))
        return salt.config.minion_config(str(self.folder(minion) / "conf" / "minion"))

    def configure(
        self, source: Path, folder: Path, placeholders: dict[str, str], own: dict[str, Any], daemon: str = ""
    ) -> None:
        """Install a file of etc/ as bootstrap.sh does, and the test's options after it, which win.

        ``daemon`` is master or minion, by default the name of the file.
        """
        # Nodes converge only when a test says so; the reconciler's own tests use another cluster (test_reconciler.py).
        # The whole key goes: an empty list would remove the engine that tells pytest-salt-factories about starts.
        text = source.read_text().replace("engines:\n  - vcore_reconcile: {}\n", "")
        for name, value in {"CHECKOUT": str(self.checkout), **placeholders}.items():
            text = text.replace(f"@{name}@", value)
        included = folder / "conf" / f"{daemon or source.stem}.d"
        included.mkdir(parents=True)
        (included / "virtual-core.conf").write_text(text)
        (included / "zz-test.conf").write_text(yaml.safe_dump(own))

    def run(self, command: str, *arguments: str, on: str = HEAD, input: str = "") -> subprocess.CompletedProcess[str]:
        """Run salt, salt-run or salt-key on the master, or salt-call on a minion, as from a shell."""
        folder = self.folder(on) if command == "salt-call" else self.master
        program = Path(sys.executable).with_name(command)
        return subprocess.run(
            [program, f"--config-dir={folder / 'conf'}", *arguments],
            input=input,
            capture_output=True,
            text=True,
            cwd=self.root,  # away from the checkout's Saltfile
            env={**os.environ, "NO_COLOR": "1"},
            timeout=60,
            check=False,
        )

    def ask(self, minion: str, function: str, *arguments: Any, patience: int = 60, **named: Any) -> Any:
        """Return what a function returns on one minion, or by minion on those that a glob matches; faster than a shell.

        Raises:
            KeyError: the minion has not answered within ``patience`` seconds.
        """
        with salt.client.LocalClient(mopts=self.options()) as client:
            answers = client.cmd(minion, function, arguments, kwarg=named, timeout=patience)
        return answers if "*" in minion else answers[minion]

    def idle(self, minion: str = HEAD) -> None:
        """Wait until a minion is idle: it answers the master first, and only then updates its own record."""
        deadline = time.monotonic() + 120
        while running := self.ask(minion, "saltutil.running"):
            assert time.monotonic() < deadline, running
            time.sleep(0.1)


def lay_out(core: Core, checkout: Path) -> None:
    """Copy what the master reads from the checkout, and make the states harmless."""
    shutil.copytree(checkout / "salt", core.checkout / "salt", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        checkout / "pillar", core.checkout / "pillar", ignore=shutil.ignore_patterns("site.sls", "site.sls.previous")
    )
    shutil.copytree(checkout / "reactor", core.checkout / "reactor")
    roles = core.checkout / "salt" / "states" / "roles"
    shutil.rmtree(roles)
    for role, text in {"node": ROLE, "head": "include: [roles.node]\n", "compute": "include: [roles.node]\n"}.items():
        (roles / role).mkdir(parents=True)
        (roles / role / "init.sls").write_text(text)
    core.site.write_text(SITE)


def own_options_only(path: Path) -> None:
    """Remove options from a daemon's main file that pytest-salt-factories sets differently from a core."""
    options = yaml.safe_load(path.read_text())
    for name in ("peer", "file_roots", "pillar_roots", "pillar_opts", "fileserver_list_cache_time", "order_masters"):
        options.pop(name, None)
    path.write_text(yaml.safe_dump(options))


@pytest.fixture(scope="session")
def live(checkout: Path, salt_factories_config: dict[str, Any], salt_factories: FactoriesManager) -> Iterator[Core]:
    """Yield the running core; tests take `core`, which begins with a good site file."""
    core = Core(salt_factories_config["root_dir"] / "core")
    lay_out(core, checkout)

    def own(paths: Paths) -> dict[str, Any]:
        folders = {key: str(getattr(paths, key)) for key in ("checkout", "configuration", "state")}
        # Secrets must not be in the logs even at their most verbose level.
        return {"virtual_core": folders, "log_level_logfile": "trace"}

    core.configure(checkout / "etc/master.conf", core.master, {}, {**own(core.paths()), "interface": "127.0.0.1"})
    # By default, pytest-salt-factories accepts every pending key with salt-key.
    master = salt_factories.salt_master_daemon(
        "master", defaults={"root_dir": str(core.master)}, on_auth_event_callback=lambda *_: None
    )
    own_options_only(core.master / "conf" / "master")
    daemons = [master]
    for name in MINIONS:
        pki = core.folder(name) / "pki"
        pki.mkdir(parents=True)
        (pki / "master").symlink_to(core.master / "pki")
        placeholders = {"ID": name, "MASTER": "127.0.0.1", "MASTER_FINGER": bootstrap.keys(name, pki)}
        options = {**own(core.paths(name)), "pki_dir": "pki/minion"}
        core.configure(checkout / "etc/minion.conf", core.folder(name), placeholders, options)
        daemons.append(master.salt_minion_daemon(name, defaults={"root_dir": str(core.folder(name))}))
        own_options_only(core.folder(name) / "conf" / "minion")
    with contextlib.ExitStack() as running:
        for daemon in daemons:
            running.enter_context(daemon.started())
        yield core


@pytest.fixture
def core(live: Core) -> Core:
    """Return the running core, with a good site and nothing converged yet."""
    live.site.write_text(SITE)
    shutil.rmtree(live.paths().configuration, ignore_errors=True)
    for minion in MINIONS:
        (live.folder(minion) / "converged").unlink(missing_ok=True)
        shutil.rmtree(live.paths(minion).state, ignore_errors=True)
    return live
