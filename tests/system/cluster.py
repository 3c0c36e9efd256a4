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
    """The head, and the machines that joined it."""

    lab: Lab
    head: Host
    uids: dict[str, int] = field(default_factory=dict)

    # --- SLURM, as an administrator sees it --------------------------------------------------------------------------

    def slurm(self, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """Return the output of a command in the controller's container."""
        return self.head.run(f"docker exec {CONTROLLER} {command}", check=check, timeout=timeout).stdout

    def states(self) -> dict[str, str]:
        """Return the state of each node in SLURM's words, such as ``idle`` or ``drained``."""
        text = self.slurm("sinfo --noheader --Node --format '%N %T'", check=False)
        return dict(line.split() for line in text.splitlines() if len(line.split()) == 2)

    def reason(self, node: str) -> str:
        """Return why a node is not to be used; empty if it is."""
        found = re.search(r"^\s*Reason=(.*?) \[", self.slurm(f"scontrol show node {node}"), re.MULTILINE)
        return found[1] if found else ""

    def reconfigures(self) -> int:
        """Return how often the running controller has read its configuration again."""
        return self.controller_log().count("Processing RPC: REQUEST_RECONFIGURE")

    def generation(self, node: str) -> str:
        """Return the text of a file of the compute image that a node runs; empty if it has none."""
        container = "$(docker ps --quiet --filter label=vcore.image=slurm-compute)"
        return self.lab.host(node).run(f"docker exec {container} cat /etc/generation", check=False).stdout

    def controller_log(self) -> str:
        """Return the log of the controller's running container."""
        return self.head.run(f"docker logs {CONTROLLER} 2>&1").stdout

    def controller(self) -> str:
        """Return what changes when the controller is restarted: its container, and the parent that keeps slurmctld
        running.

        A slurmctld that reads its configuration again hands over to another process, which must not count.
        """
        return self.slurm('sh -c \'hostname; pgrep -of "slurm-controller run"; cut -d " " -f 22 /proc/1/stat\'')

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 120, pause: float = 0.3) -> float:
        """Wait until something holds, looking after each pause; return the seconds that it took."""
        started = time.monotonic()
        while not condition():
            took = time.monotonic() - started
            assert took < timeout, f"{what}: not after {timeout:g} s; {self.states()}"
            time.sleep(pause)
        return time.monotonic() - started

    def wait_idle(self, *nodes: str, timeout: float = 180) -> float:
        """Wait until these nodes take jobs; return the seconds that it took."""
        started, wanted = time.monotonic(), "\n".join(sorted(f"{node} idle" for node in nodes))
        # On the head, because each look from here takes as long as a node may need.
        ask = f"docker exec {CONTROLLER} sinfo --noheader --Node --nodes={','.join(nodes)} --format '%N %T'"
        look = f'until [ "$({ask} 2>/dev/null | LC_ALL=C sort -u)" = {shlex.quote(wanted)} ]; do sleep 0.3; done'
        while (took := time.monotonic() - started) < timeout:
            # The head itself may be starting.
            if self.head.run(look, check=False, timeout=timeout - took).returncode == 0:
                return time.monotonic() - started
            time.sleep(0.3)
        raise AssertionError(f"{', '.join(nodes)} idle: not after {timeout:g} s; {self.states()}")

    def let_write(self) -> None:
        """Give slurmctld time to write its state, which it does every five seconds; later changes would be lost."""
        time.sleep(15)

    def nodes(self) -> dict[str, Any]:
        """Return what ``salt-run vcore.nodes`` says, by node."""
        told = json.loads(self.head.run("salt-run --out=json vcore.nodes", check=False).stdout)
        nodes: dict[str, Any] = told["nodes"]
        return nodes

    # --- joining -----------------------------------------------------------------------------------------------------

    def line(self, options: str = "") -> str:
        """Return the line that a new machine is started with."""
        told = json.loads(self.head.run(f"salt-run --out=json vcore.enrol_token {options}").stdout)
        return str(told.splitlines()[-1])

    def join(self, *nodes: str, line: str | None = None) -> None:
        """Run that line on these hosts, all at the same time."""
        text = line or self.line()

        def one(node: str) -> None:
            self.lab.host(node).run(["bash"], input=text, timeout=900)

        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(one, nodes))

    def retire(self, *nodes: str) -> None:
        """Take these nodes out of the core, all at the same time."""
        self.head.run(f"salt-run vcore.retire {','.join(nodes)}", timeout=900)

    # --- people ------------------------------------------------------------------------------------------------------

    def add_person(self, name: str, **more: str) -> None:
        """Add a person with a key, which the head's root has, too."""
        self.head.run(f"test -f {KEY} || (mkdir -p /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f {KEY})")
        key = self.head.run(f"cat {KEY}.pub").stdout.strip()
        if name not in self.head.salt_call("vcore.user_list"):
            self.head.salt_call("vcore.user_add", name, ssh_keys=[key], **more)
        self.uids[name] = int(self.head.salt_call("vcore.user_show", name)["uid"])

    def ask(self, name: str, command: str, *, check: bool = True, timeout: float = 120) -> Any:
        """Run a command as a person on the login host, over ssh; return its result."""
        options = "-o StrictHostKeyChecking=no -o BatchMode=yes -o LogLevel=ERROR"
        ssh = f"ssh -p 2222 -i {KEY} {options} {name}@{self.head.address} bash -l -s"
        return self.head.run(ssh, input=command + "\n", check=check, timeout=timeout)

    def person(self, name: str, command: str, *, timeout: float = 120) -> str:
        """Return the output of a person's command there."""
        return str(self.ask(name, command, timeout=timeout).stdout).strip()

    def submit(self, name: str, script: str, options: str = "") -> int:
        """Submit a job as a person; return its number."""
        return int(self.person(name, f"sbatch --parsable {options} --wrap {shlex.quote(script)}").splitlines()[-1])

    def job(self, number: int) -> str:
        """Return the state of a job, such as ``RUNNING`` or ``COMPLETED``."""
        found = re.search(r"JobState=(\w+)", self.slurm(f"scontrol show job {number}", check=False))
        return found[1] if found else "unknown"

    def runs(self, number: int) -> str:
        """Return what changes when a job was started again."""
        return " ".join(re.findall(r"(?:JobState|Restarts|StartTime)=\S+", self.slurm(f"scontrol show job {number}")))

    def wait_job(self, number: int, state: str = "COMPLETED", timeout: float = 120) -> None:
        """Wait until a job is in a state."""
        self.wait(lambda: self.job(number) == state, f"job {number} {state}, not {self.job(number)}", timeout)
