"""A core's batch queue under test: its nodes, and people who log in and submit jobs."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Host, Lab

KEY = "/root/.ssh/person"
CONTROLLER = "$(docker ps --quiet --filter label=com.docker.swarm.service.name=slurm-controller)"


@dataclass
class Cluster:
    """The head, and whoever joined it."""

    lab: Lab
    head: Host
    uids: dict[str, int] = field(default_factory=dict)

    # --- SLURM, as an administrator sees it --------------------------------------------------------------------------

    def slurm(self, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """What a command prints in the controller's container."""
        return self.head.run(f"docker exec {CONTROLLER} {command}", check=check, timeout=timeout).stdout

    def states(self) -> dict[str, str]:
        """The state of each node in SLURM's words, such as ``idle`` or ``drained``."""
        text = self.slurm("sinfo --noheader --Node --format '%N %T'", check=False)
        return dict(line.split() for line in text.splitlines() if len(line.split()) == 2)

    def reason(self, node: str) -> str:
        """Why a node is not to be used; empty if it is."""
        found = re.search(r"^\s*Reason=(.*?) \[", self.slurm(f"scontrol show node {node}"), re.MULTILINE)
        return found[1] if found else ""

    def reconfigures(self) -> int:
        """How often the controller that runs has read its configuration anew."""
        return self.controller_log().count("Processing RPC: REQUEST_RECONFIGURE")

    def generation(self, node: str) -> str:
        """What the compute image that a node runs says of itself in a file; empty if it has none."""
        container = "$(docker ps --quiet --filter label=vcore.image=slurm-compute)"
        return self.lab.host(node).run(f"docker exec {container} cat /etc/generation", check=False).stdout

    def controller_log(self) -> str:
        """What the controller's container that runs has written."""
        return self.head.run(f"docker logs {CONTROLLER} 2>&1").stdout

    def controller(self) -> str:
        """What changes when the controller is started anew: its container, and what keeps slurmctld running in it. A
        slurmctld that reads its configuration hands over to another process, and nobody notices.
        """
        return self.slurm('sh -c \'hostname; pgrep -of "slurm-controller run"; cut -d " " -f 22 /proc/1/stat\'')

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 120, pause: float = 0.3) -> float:
        """Wait until something is so, with a look after each pause; the seconds that it took."""
        started = time.monotonic()
        while not condition():
            took = time.monotonic() - started
            assert took < timeout, f"{what}: not after {timeout:g} s; {self.states()}"
            time.sleep(pause)
        return time.monotonic() - started

    def wait_idle(self, *nodes: str, timeout: float = 180) -> float:
        """Wait until these nodes take jobs; the seconds that it took."""
        started, wanted = time.monotonic(), "\n".join(sorted(f"{node} idle" for node in nodes))
        # On the head, since each look from here takes as long as a node may need.
        ask = f"docker exec {CONTROLLER} sinfo --noheader --Node --nodes={','.join(nodes)} --format '%N %T'"
        look = f'until [ "$({ask} 2>/dev/null | LC_ALL=C sort -u)" = {shlex.quote(wanted)} ]; do sleep 0.3; done'
        while (took := time.monotonic() - started) < timeout:
            # The head itself may be on its way.
            if self.head.run(look, check=False, timeout=timeout - took).returncode == 0:
                return time.monotonic() - started
            time.sleep(0.3)
        raise AssertionError(f"{', '.join(nodes)} idle: not after {timeout:g} s; {self.states()}")

    def let_write(self) -> None:
        """Give slurmctld the time to write its state, which it does every five seconds; the rest is lost with it."""
        time.sleep(15)

    def nodes(self) -> dict[str, Any]:
        """What ``salt-run vcore.nodes`` tells, by node."""
        told = json.loads(self.head.run("salt-run --out=json vcore.nodes", check=False).stdout)
        nodes: dict[str, Any] = told["nodes"]
        return nodes

    # --- joining -----------------------------------------------------------------------------------------------------

    def line(self, options: str = "") -> str:
        """The line that a new machine is started with."""
        told = json.loads(self.head.run(f"salt-run --out=json vcore.enrol_token {options}").stdout)
        return str(told.splitlines()[-1])

    def join(self, *nodes: str, line: str | None = None) -> None:
        """Run that line on these hosts, all at once."""
        text = line or self.line()

        def one(node: str) -> None:
            self.lab.host(node).run(["bash"], input=text, timeout=900)

        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(one, nodes))

    def retire(self, *nodes: str) -> None:
        """Take these nodes out of the core, all at once."""
        self.head.run(f"salt-run vcore.retire {','.join(nodes)}", timeout=900)

    # --- people ------------------------------------------------------------------------------------------------------

    def add_person(self, name: str, **more: str) -> None:
        """Somebody with a key, which the head's root has, too."""
        self.head.run(f"test -f {KEY} || (mkdir -p /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f {KEY})")
        key = self.head.run(f"cat {KEY}.pub").stdout.strip()
        if name not in self.head.salt_call("vcore.user_list"):
            self.head.salt_call("vcore.user_add", name, ssh_keys=[key], **more)
        self.uids[name] = int(self.head.salt_call("vcore.user_show", name)["uid"])

    def ask(self, name: str, command: str, *, check: bool = True, timeout: float = 120) -> Any:
        """What happens when a person runs a command on the login host, over ssh."""
        options = "-o StrictHostKeyChecking=no -o BatchMode=yes -o LogLevel=ERROR"
        ssh = f"ssh -p 2222 -i {KEY} {options} {name}@{self.head.address} bash -l -s"
        return self.head.run(ssh, input=command + "\n", check=check, timeout=timeout)

    def person(self, name: str, command: str, *, timeout: float = 120) -> str:
        """What a command of a person prints there."""
        return str(self.ask(name, command, timeout=timeout).stdout).strip()

    def submit(self, name: str, script: str, options: str = "") -> int:
        """Submit a job as a person; its number."""
        return int(self.person(name, f"sbatch --parsable {options} --wrap {shlex.quote(script)}").splitlines()[-1])

    def job(self, number: int) -> str:
        """The state of a job, such as ``RUNNING`` or ``COMPLETED``."""
        found = re.search(r"JobState=(\w+)", self.slurm(f"scontrol show job {number}", check=False))
        return found[1] if found else "unknown"

    def runs(self, number: int) -> str:
        """What changes when a job is no longer the one that was started."""
        return " ".join(re.findall(r"(?:JobState|Restarts|StartTime)=\S+", self.slurm(f"scontrol show job {number}")))

    def wait_job(self, number: int, state: str = "COMPLETED", timeout: float = 120) -> None:
        """Wait until a job is in a state."""
        self.wait(lambda: self.job(number) == state, f"job {number} {state}, not {self.job(number)}", timeout)
