"""Taking a node out of the core: out of SLURM when its jobs have ended, out of the swarm, and out of the head's trust.

Each step looks whether it was done already, so a retirement that was cut off anywhere is gone on from by running it
again. What is left of a node to do is in the registry: it is ``retiring``; without ``hardware`` it is out of SLURM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from . import core, reconcile, site, swarm_client
from .errors import NotFound, VcoreError
from .names import NODE_NAME
from .nodes import UNKNOWN, Registry
from .paths import Paths
from .reconciler import Call, locked

#: The reason that a node is drained with.
REASON = "vcore: retiring"
#: Seconds between two looks at a node that still runs jobs, and between two lines that say so.
LOOK, SAY = 2.0, 60.0
#: Seconds that a round of the reconciler may take to make room, and that a node has to take the core off itself.
ROOM, FAREWELL = 180.0, 300.0

#: What is asked of a node before its key goes: what the role brought, then secrets and the minion itself.
ABSENT: Call = ("state.apply", ["roles.compute.absent"], {})
LEAVE: Call = ("vcore_node.leave", [], {})


class Salt(Protocol):
    """What a retirement needs of Salt's master: :class:`vcore.master.Master`."""

    def key_states(self) -> dict[str, str]: ...
    def delete_key(self, name: str) -> None: ...
    def gather(
        self, names: list[str], calls: list[Call], *, wait: float, gap: float | None = None
    ) -> dict[str, Mapping[str, Any]]: ...


class Retirement:
    """One node on its way out."""

    def __init__(self, paths: Paths, salt: Salt, name: str, say: Callable[[str], None]) -> None:
        """Look whether the node can go at all.

        Raises:
            NotFound: nobody knows it.
            VcoreError: it cannot: it is the head, or a service has its data there.
        """
        self.paths, self.salt, self.name, self.say = paths, salt, name, say
        self.registry = Registry(paths.nodes)
        self.done: list[str] = []
        if not NODE_NAME.fullmatch(name):
            raise VcoreError(f"{reconcile.words(name)!r} is no name for a node (a-z, 0-9, -, a letter first)")
        self.pillar = core.head_pillar(paths)
        self.key = salt.key_states().get(name)
        if name not in self.pillar["nodes"] and name not in self.registry.read() and self.key is None:
            raise NotFound(f"there is no node {name}; see salt-run vcore.nodes")
        if name == self.pillar["head"]["name"]:
            raise VcoreError(f"{name} is the head; bootstrap.sh --uninstall takes the core off it")
        pinned = [service for service, data in self.pillar["services"].items() if data["node"] == name]
        if pinned:
            raise VcoreError(
                f"{name} runs {', '.join(pinned)}, with their data; move them first "
                f"(vcore.services.{pinned[0]}.node in {paths.site.name}), and apply the states"
            )

    @property
    def entry(self) -> Mapping[str, Any]:
        """What the registry has of the node."""
        return self.registry.read().get(self.name, UNKNOWN)

    def run(self, *, dead: bool, timeout: float) -> dict[str, Any]:
        """Take all steps; ``timeout`` is what jobs of the node may still take, in seconds.

        Returns ``{node, done: [...], remains}``; ``remains`` says what is the administrator's to do, or is None.

        Raises:
            VcoreError: a step did not work, or jobs still run; what was done stays done.
        """
        # From here on the reconciler leaves it alone.
        self.registry.update({self.name: {"retiring": True}})
        if self.entry["hardware"]:
            self._drain(dead, timeout)
        with locked(self.paths, wait=ROOM):  # a round writes SLURM's configuration, too
            self._leave_slurm()
        if not dead and self.key == "accepted":
            self._take_off()
        self._leave_swarm()
        self._revoke()
        remains = self._forget()
        return {"node": self.name, "done": self.done, "remains": remains}

    def cancel(self) -> dict[str, Any]:
        """Keep a node that is still in SLURM after all; what a person drained it for stays.

        Raises:
            VcoreError: it is not being retired, or is out already.
        """
        if not self.entry["retiring"]:
            raise VcoreError(f"{self.name} is not being retired")
        if not self.entry["hardware"] or self.key != "accepted":
            raise VcoreError(f"{self.name} is out already; go on with salt-run vcore.retire {self.name}, then enrol it")
        from . import slurm_client

        self.registry.update({self.name: {"retiring": False}})
        reconcile.mark(self.paths, [self.name])
        if slurm_client.manages(self.pillar):
            slurm_client.release(self.pillar, self.name, REASON)
        return {"node": self.name, "done": ["it stays, and takes jobs again"], "remains": None}

    def _drain(self, dead: bool, timeout: float) -> None:
        from . import slurm_client

        if not slurm_client.manages(self.pillar) or self.name not in slurm_client.show_nodes(self.pillar):
            return
        if dead:
            # SLURM requeues its jobs, or fails them, as each was submitted; they would hold on to its line else.
            slurm_client.down(self.pillar, self.name, REASON)
            self.done.append("down in SLURM")
            return
        slurm_client.drain(self.pillar, [self.name], REASON)
        self.done.append("drained")
        end, spoken = time.monotonic() + timeout, -SAY
        while jobs := slurm_client.jobs_on(self.pillar, self.name):
            listed = ", ".join(map(str, jobs[:10])) + (" and more" if len(jobs) > 10 else "")
            if time.monotonic() >= end:
                raise VcoreError(
                    f"{self.name} still runs {len(jobs)} jobs: {listed}; it takes no new ones. Go on later with "
                    f"salt-run vcore.retire {self.name}, end them with scancel, or keep it with cancel=True"
                )
            if time.monotonic() - spoken >= SAY:
                self.say(f"{self.name}: waiting for {len(jobs)} jobs to end: {listed}")
                spoken = time.monotonic()
            time.sleep(min(LOOK, max(end - time.monotonic(), 0.1)))

    def _leave_slurm(self) -> None:
        if self.entry["hardware"]:
            self.registry.update({self.name: {"hardware": None}})
        from . import slurm_client

        # Also when an earlier run noted it and came no further: this changes nothing that is right.
        if slurm_client.manages(self.pillar) and slurm_client.configure(core.head_pillar(self.paths), self.paths):
            self.done.append("out of SLURM")

    def _take_off(self) -> None:
        self.say(f"{self.name}: taking the core off it")
        end = time.monotonic() + FAREWELL
        while True:
            answer = self.salt.gather([self.name], [ABSENT], wait=FAREWELL).get(self.name)
            why = "it does not answer" if answer is None else reconcile.failed_states(answer.get(ABSENT[0], answer))
            if why is None or "is running as PID" not in why or time.monotonic() >= end:
                break
            time.sleep(LOOK)  # its states are being applied, which the reconciler may have begun before
        if why is None:
            told = self.salt.gather([self.name], [LEAVE], wait=FAREWELL).get(self.name)
            left = None if told is None else told.get(LEAVE[0])
            if not isinstance(left, list):
                why = f"it did not delete its secrets: {reconcile.words(left)}"
        if why is not None:
            raise VcoreError(
                f"{self.name}: {why}. Mend that and run salt-run vcore.retire {self.name} again; if the machine is "
                f"gone for good: salt-run vcore.retire {self.name} dead=True"
            )
        self.done.append("secrets, trust and swarm taken off the machine")

    def _leave_swarm(self) -> None:
        identity = self.entry["swarm_id"]
        if identity and swarm_client.Swarm().remove_member(identity):
            self.done.append("out of the swarm")

    def _revoke(self) -> None:
        if self.salt.key_states().get(self.name) in ("accepted", "pending"):
            self.salt.delete_key(self.name)
            self.done.append("key deleted")

    def _forget(self) -> str | None:
        reconcile.unmark(self.paths, [self.name])
        line = named(self.paths, self.name)
        if line is None:
            self.registry.remove([self.name])
            self.done.append("forgotten")
        else:
            # While the site names it, this keeps the reconciler from taking it back.
            self.registry.update({self.name: {**UNKNOWN, "retiring": True}})
        return line


def named(paths: Paths, name: str) -> str | None:
    """What to take out of the site file, with its line, where that names the node; else None."""
    configuration, document = site.load(paths.site, services=paths.services, flavors=paths.flavors)
    if name not in configuration.site.nodes:
        return None
    return str(document.problem(("nodes", name), "still names the node: take this out, and apply the states"))
