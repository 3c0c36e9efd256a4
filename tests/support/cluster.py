"""A live master with its reconciler, and as many live minions as a test wants, in a swarm of stand-in daemons."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import salt.config
import yaml
from salt.crypt import write_keys
from vcore import bootstrap
from vcore.base.paths import Paths
from vcore.nodes import code as nodes_code
from vcore.nodes import decisions
from vcore.nodes.registry import Registry

from .swarm_api import SwarmApi

BIN = Path(sys.executable).parent
HEAD = "head"

#: All services are off, because these tests are not about them.
SITE = """\
vcore:
  site: {domain: core.test, organization: Department of Tests}
  base_directory: /srv/core-test
  network: {subnet: 198.18.0.0/24, bridge_subnet: 198.18.1.0/24, ingress_subnet: 198.18.2.0/24}
  nodes:
    head: {roles: [head], address: 10.1.0.1}
  slurm: {mode: managed}
  services: {off}
"""

#: The states of a compute node here: a file counts convergences; tests can make one fail, or take longer.
STATES = """\
{%- set root = opts["root_dir"] %}
{%- if salt["file.file_exists"](root ~ "/slow") %}
{%- do salt["test.sleep"](salt["file.read"](root ~ "/slow") | int) %}
{%- endif %}
{%- if salt["file.file_exists"](root ~ "/broken") %}
Something is wrong here:
  test.fail_without_changes:
    - comment: {{ "the disk is\\non fire" | json }}
{%- endif %}
This convergence is counted:
  file.append:
    - name: {{ root }}/converged
    - text: {{ salt["test.random_hash"]() }}
    - ignore_whitespace: False
"""

ABSENT = """\
The role was taken off:
  file.touch:
    - name: {{ opts["root_dir"] }}/absent
"""

#: A stand-in for SLURM's client that records the reconciler's calls, because these tests are not about SLURM.
SLURM = '''\
"""What the reconciler asks of SLURM, written down."""
import json, time
from pathlib import Path
from vcore.base.errors import VcoreError

FOLDER = Path({folder!r})


def _note(what, **more):
    with (FOLDER / "slurm.jsonl").open("a") as stream:
        stream.write(json.dumps({{"what": what, "time": time.time(), **more}}) + "\\n")


def _kept(name, default):
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else default


def manages(pillar):
    return True


def configure(pillar, paths):
    if (FOLDER / "refuses").exists():
        raise VcoreError("slurmctld refuses the configuration: no such partition")
    from vcore.slurm import configuration

    nodes = sorted(configuration.compute_nodes(pillar))
    _note("configure", nodes=nodes)
    old = _kept("nodes.json", [])
    (FOLDER / "nodes.json").write_text(json.dumps(nodes))
    return {{"nodes.conf": nodes}} if nodes != old else {{}}


def show_nodes(pillar):
    drained = _kept("drained.json", {{}})
    return {{
        name: {{"state": "idle", "flags": ["drain"] if name in drained else [], "reason": drained.get(name)}}
        for name in _kept("nodes.json", [])
    }}


def state_words(node):
    return "+".join([node["state"], *node["flags"]])


OURS = "vcore: "


def resume(pillar, names, abandoned=()):
    drained = _kept("drained.json", {{}})
    kept = {{"vcore: retiring", "vcore: update of the compute image"}} - set(abandoned)
    ours = [n for n in names if drained.get(n, "").startswith("vcore: ") and drained[n] not in kept]
    (FOLDER / "drained.json").write_text(json.dumps({{n: why for n, why in drained.items() if n not in ours}}))
    _note("resume", nodes=sorted(names))
    return ours


def drain(pillar, names, reason):
    _note("drain", nodes=sorted(names), reason=reason)
    (FOLDER / "drained.json").write_text(json.dumps(dict.fromkeys(names, reason) | _kept("drained.json", {{}})))


def down(pillar, names, reason):
    _note("down", nodes=names, reason=reason)


def release(pillar, names, reason):
    _note("release", nodes=names, reason=reason)


def jobs_on(pillar, names):
    return {{name: jobs for name, jobs in _kept("jobs.json", {{}}).items() if name in names and jobs}}
'''


def free_ports(number: int) -> list[int]:
    """Return ports on which nothing listens at the moment."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """The daemons and their folders, below one short folder."""

    def __init__(self, root: Path, checkout: Path) -> None:
        self.root = root
        self.checkout = root / "checkout"
        self.source = checkout
        self.paths = Paths(self.checkout, root / "configuration", root / "state")
        self.registry = Registry(self.paths.nodes)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (root / "docker").mkdir(parents=True)
        (root / "master" / "pki").mkdir(parents=True)
        self.swarm = SwarmApi(root / "docker", HEAD)
        self.ports = free_ports(2)
        self._lay_out()

    def _lay_out(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "site.sls", "site.sls.previous")
        for folder in ("salt", "pillar", "reactor"):
            shutil.copytree(self.source / folder, self.checkout / folder, ignore=ignored)
        roles = self.checkout / "salt" / "states" / "roles"
        shutil.rmtree(roles)
        for path, text in {"node/init": "{}\n", "compute/init": STATES, "compute/absent": ABSENT}.items():
            (roles / path).parent.mkdir(parents=True, exist_ok=True)
            (roles / f"{path}.sls").write_text(text)
        off = {path.parent.name: {"enabled": False} for path in self.paths.services.glob("*/service.yaml")}
        self.paths.site.write_text(SITE.replace("{off}", json.dumps(off)))
        conf = self.root / "master" / "conf"
        (conf / "master.d").mkdir(parents=True)
        text = (self.source / "etc/master.conf").read_text().replace("@CHECKOUT@", str(self.checkout))
        # Salt joins the lists of its files: what is in one cannot be taken out in another.
        assert "\n  - vcore_reconcile: {}\n" in text
        text = text.replace("\n  - vcore_reconcile: {}\n", " []\n")
        (conf / "master.d" / "virtual-core.conf").write_text(text)
        folders = {key: str(getattr(self.paths, key)) for key in ("checkout", "configuration", "state")}
        own = {
            "root_dir": str(self.root / "master"),
            "pki_dir": str(self.root / "master" / "pki"),
            "interface": "127.0.0.1",
            "publish_port": self.ports[0],
            "ret_port": self.ports[1],
            "virtual_core": folders,
            "log_level_logfile": "info",
            "log_file": str(self.root / "master.log"),
        }
        (conf / "master.d" / "zz-test.conf").write_text(yaml.safe_dump(own))
        (conf / "master").write_text("")
        # Beside the real vcore, for the master's processes only.
        stand_in = self.root / "stand-in"
        stand_in.mkdir()
        (stand_in / "slurm_stand_in.py").write_text(SLURM.format(folder=str(self.root)))
        (stand_in / "sitecustomize.py").write_text(
            "import sys, slurm_stand_in\n"
            'sys.modules["vcore.slurm.controller"] = sys.modules["vcore.slurm.queue"] = slurm_stand_in\n'
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the master and its commands run in."""
        more = {"DOCKER_HOST": self.swarm.host(HEAD), "PYTHONPATH": str(self.root / "stand-in"), "NO_COLOR": "1"}
        return {**os.environ, **more}

    def options(self) -> dict[str, Any]:
        """Return the master's options."""
        return salt.config.master_config(str(self.root / "master" / "conf" / "master"))

    # --- the master --------------------------------------------------------------------------------------------

    def start_master(self, **engine: Any) -> None:
        """Start the master with these options of its engine, or without the engine (``off=True``)."""
        engines = [] if engine.get("off") else [{"vcore_reconcile": engine}]
        (self.root / "master/conf/master.d/zz-engine.conf").write_text(yaml.safe_dump({"engines": engines}))
        command = [BIN / "salt-master", "-c", self.root / "master/conf", "--log-file-level=info"]
        self._start("master", command, self.environment)
        self.until(lambda: (self.root / "master/var/run/salt/master/publish_pull.ipc").exists(), 30)

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        """End a daemon with all of its processes."""
        process = self.processes.pop(name)
        os.killpg(process.pid, how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        # Its children may outlive it by a moment and keep its ports.
        self.until(lambda: not _group(process.pid), 20, "processes outlive their daemon")

    def _start(self, name: str, command: Iterable[Any], environment: dict[str, str]) -> None:
        log = (self.root / f"{name}.out").open("ab")
        self.processes[name] = subprocess.Popen(
            [str(word) for word in command],
            stdout=log, stderr=log, env=environment, cwd=self.root, start_new_session=True,
        )  # fmt: skip

    # --- minions -----------------------------------------------------------------------------------------------

    def add(self, name: str, *, role: bool = True, accept: bool = True, code: bool = True) -> None:
        """Prepare a node as enrolment leaves it: keys made and accepted, roles granted; its minion does not run yet.

        It has the head's code already, unless ``code`` says otherwise: syncing it takes each minion seconds.
        """
        number = len(self.swarm.nodes)
        docker_host = self.swarm.add(name, f"10.1.{number // 250}.{number % 250 + 2}")
        folder = self.root / name
        pki = folder / "pki"
        pki.mkdir(parents=True)
        (pki / "master").symlink_to(self.root / "master" / "pki")
        (pki / "minion").mkdir()
        write_keys(str(pki / "minion"), "minion", 2048)  # as long as a node's own takes a second each
        finger = bootstrap.keys(name, pki)
        if not accept:
            (self.root / "master/pki/minions_pre").mkdir(exist_ok=True)
            (self.root / "master/pki/minions" / name).rename(self.root / "master/pki/minions_pre" / name)
        text = (self.source / "etc/node.conf").read_text()
        for key, value in {"ID": name, "MASTER": "127.0.0.1", "MASTER_FINGER": finger}.items():
            text = text.replace(f"@{key}@", value)
        included = folder / "conf" / "minion.d"
        included.mkdir(parents=True)
        (included / "virtual-core.conf").write_text(text)
        own = {
            "root_dir": str(folder),
            "pki_dir": str(pki / "minion"),
            "publish_port": self.ports[0],
            "master_port": self.ports[1],
            "virtual_core": {"configuration": str(folder / "configuration"), "state": str(folder / "state")},
            "log_level_logfile": "info",
            "log_file": str(folder / "log"),
        }
        (included / "zz-test.conf").write_text(yaml.safe_dump(own))
        (folder / "conf" / "minion").write_text("")
        (folder / "docker").write_text(docker_host)
        if code:
            self.give_code(name)
        if role:
            known = nodes_code.code(self.checkout / "salt") if code else None
            self.registry.update(
                {name: {"roles": ["compute"], "by": "token", "enrolled": int(time.time()), "code": known}}
            )

    def give_code(self, name: str) -> None:
        """Put the modules where a sync would put them."""
        place = self.root / name / "var/cache/salt/minion/extmods"
        for kind in nodes_code.KINDS:
            shutil.copytree(self.checkout / "salt" / f"_{kind}", place / kind, dirs_exist_ok=True)

    def start(self, *names: str) -> None:
        """Start these minions, all at once."""
        for name in names:
            environment = {**os.environ, "DOCKER_HOST": (self.root / name / "docker").read_text()}
            conf = self.root / name / "conf"
            self._start(name, [BIN / "salt-minion", "-c", conf, "--log-file-level=info"], environment)

    def close(self) -> None:
        """End everything."""
        for name in list(self.processes):
            self.stop(name, signal.SIGKILL)
        self.swarm.close()

    # --- looking -----------------------------------------------------------------------------------------------

    def run(self, *arguments: str, command: str = "salt-run", timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command of the master's, as from a shell."""
        return subprocess.run(
            [str(BIN / command), f"--config-dir={self.root / 'master/conf'}", *arguments],
            capture_output=True, text=True, cwd=self.root, env=self.environment, timeout=timeout, check=False,
        )  # fmt: skip

    def converged(self, name: str) -> int:
        """Return how often a node was converged."""
        path = self.root / name / "converged"
        return len(path.read_text().split()) if path.exists() else 0

    @property
    def state(self) -> decisions.State:
        """What the reconciler remembers."""
        return decisions.load(self.paths)

    def asked(self, what: str) -> list[dict[str, Any]]:
        """Return the recorded calls of SLURM's client of one kind."""
        path = self.root / "slurm.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["what"] == what]

    def rounds(self) -> list[str]:
        """Return the lines that the engine logged about its rounds."""
        place = self.root / "master.out"
        log = place.read_text() if place.exists() else ""
        return re.findall(r"Reconciler: round of (.*)", log)

    def registered(self) -> list[str]:
        """Return the nodes whose swarm id the registry knows."""
        return sorted(name for name, entry in self.registry.read().items() if entry["swarm_id"])

    def until(self, holds: Callable[[], Any], seconds: float, what: str = "") -> Any:
        """Wait until ``holds`` returns something true, and return that; a busy machine gets four times the seconds."""
        end = time.monotonic() + 4 * seconds
        while True:
            if found := holds():
                return found
            assert time.monotonic() < end, f"not within {seconds} s: {what or holds}; {self.state}; {self.rounds()}"
            time.sleep(0.1)


def _group(leader: int) -> list[str]:
    """Return the process ids of a group, without zombies."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(leader) and fields[0] != "Z":
            found.append(place.parent.name)
    return found
